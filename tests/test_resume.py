"""An interrupted run goes on: finished cases are taken up, damaged or different ones measured again."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
import xarray as xr

import depprobe
import depprobe.probes.jacobian as jacobian_probe
from depprobe.core import device, under_way
from depprobe.errors import BadInput
from depprobe.operators import RecurrentJacobian
from depprobe.operators.composed import traces
from depprobe.runs.identity import digest_of
from depprobe.store import finished
from depprobe.store.atomic import this_process
from depprobe.store.finished import MARKER, Finished


@pytest.fixture
def counted(monkeypatch):
    calls = []
    plain = RecurrentJacobian.log_norms

    def spy(self, *arguments):
        calls.append(self)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(self, *arguments)

    monkeypatch.setattr(RecurrentJacobian, "log_norms", spy)
    return calls


def test_finished_cases_are_taken_up_and_the_data_are_the_same(tmp_path, counted):
    kept = Finished(tmp_path / "partial")
    options = {"n": 12, "d": 4, "seeds": 5}
    with pytest.raises(KeyboardInterrupt):
        depprobe.jacobian("gru", **options, finished=kept)
    assert sorted(path.suffix for path in kept.folder.iterdir()) == [".npz", ".npz", ".txt"]
    resumed = depprobe.jacobian("gru", **options, finished=kept)
    assert len(counted) == 3 + 3, "two cases were finished, the third was not"
    assert resumed.identical(depprobe.jacobian("gru", **options))
    for path in kept.folder.glob("*.npz"):
        path.write_bytes(path.read_bytes()[:100])
    assert depprobe.jacobian("gru", **options, finished=kept).identical(resumed)
    one, two, *_ = kept.folder.glob("*.npz")
    (content, other), before = (one.read_bytes(), two.read_bytes()), len(counted)
    one.write_bytes(other)
    two.write_bytes(content)
    assert depprobe.jacobian("gru", **options, finished=kept).identical(resumed), "files under wrong names"
    assert len(counted) == before + 2
    assert (one.read_bytes(), two.read_bytes()) == (content, other)
    before = len(counted)
    depprobe.jacobian("gru", n=12, d=4, seeds=5, tolerance=0, finished=kept)
    assert len(counted) == before + 5, "another tolerance is another measurement"
    kept.clear()
    assert not kept.folder.exists()


def test_a_folder_of_the_user_is_refused_and_never_touched(run, tmp_path):
    mine = tmp_path / "q.nc.partial"
    mine.mkdir()
    np.save(mine / "in.npy", np.random.default_rng(0).normal(size=(8, 3)))
    before = (mine / "in.npy").read_bytes()
    measure = ("jacobian", "--layer", "gru", "--n", "8", "--d", "4")
    code, out, err = run(*measure, "--input", str(mine / "in.npy"), "-o", "q.nc")
    assert (code, out) == (2, "")
    assert "would be kept in 'q.nc.partial', which is not depprobe's: move it" in err
    assert [path.name for path in mine.iterdir()] == ["in.npy"]
    assert (mine / "in.npy").read_bytes() == before
    assert not (tmp_path / "q.nc").exists()
    code, _, err = run("cost", "--layer", "gru", "--n", "8", "--d", "4", "-o", "q.nc")
    assert (code, [path.name for path in mine.iterdir()]) == (2, ["in.npy"])


def test_what_someone_put_beside_finished_cases_stays(tmp_path):
    kept = Finished(tmp_path / "a.nc.partial")
    depprobe.jacobian("gru", n=12, d=4, finished=kept)
    notes = kept.folder / "notes.txt"
    notes.write_text("mine")
    kept.clear()
    assert {path.name for path in kept.folder.iterdir()} == {MARKER, "notes.txt"}
    assert notes.read_text() == "mine"


@pytest.mark.parametrize("make", ["file", "link", "empty"])
def test_only_a_marked_folder_is_taken(tmp_path, make):
    place = tmp_path / "partial"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    {"file": lambda: place.write_text(""), "link": lambda: place.symlink_to(elsewhere), "empty": place.mkdir}[
        make
    ]()
    kept = Finished(place)
    with pytest.raises(BadInput, match="which is not depprobe's: move it, or name another --output"):
        depprobe.jacobian("gru", n=12, d=4, finished=kept)
    kept.clear()
    assert place.exists()
    assert list(elsewhere.iterdir()) == []


def test_an_entry_that_is_no_file_is_measured_again(tmp_path, counted):
    kept = Finished(tmp_path / "partial")
    depprobe.jacobian("gru", n=12, d=4, finished=kept)
    (entry,) = kept.folder.glob("*.npz")
    moved = entry.rename(tmp_path / "moved.npz")
    entry.symlink_to(moved)
    depprobe.jacobian("gru", n=12, d=4, finished=kept)
    assert len(counted) == 2
    assert not entry.is_symlink()


def test_any_damage_to_a_finished_point_is_noticed(tmp_path):
    kept = Finished(tmp_path / "points")
    kept.put({"n": 1}, {"seconds": 1.25})
    (file,) = kept.folder.glob("*.npz")
    whole = file.read_bytes()
    for byte in range(len(whole)):
        bit = byte % 8
        file.write_bytes(whole[:byte] + bytes([whole[byte] ^ 1 << bit]) + whole[byte + 1 :])
        assert kept.get({"n": 1}) is None
    file.write_bytes(whole)
    assert kept.get({"n": 1}) == {"seconds": 1.25}


def test_a_kept_dataset_is_read_only_where_it_is_whole_and_of_the_same_facts(tmp_path, monkeypatch):
    kept, calls = Finished(tmp_path), []

    def measured(value: float) -> xr.Dataset:
        calls.append(value)
        return xr.Dataset({"a": ("x", [value])})

    def asked(value: float) -> xr.Dataset:
        return kept.dataset({"value": value}, partial(measured, value), "name")

    assert asked(1.0).identical(asked(1.0))
    assert calls == [1.0]
    file = tmp_path / "name.nc"
    whole = file.read_bytes()
    for byte in range(0, len(whole), 97):
        file.write_bytes(whole[:byte] + bytes([whole[byte] ^ 1 << byte % 8]) + whole[byte + 1 :])
        assert float(asked(1.0).a[0]) == 1.0
        assert file.read_bytes() == whole
    assert len(calls) == 1 + len(range(0, len(whole), 97))
    assert float(asked(2.0).a[0]) == 2.0, "the file that another configuration left is replaced"
    before = len(calls)
    monkeypatch.setattr(finished, "code_version", lambda: "another")
    assert asked(2.0).identical(asked(2.0))
    assert len(calls) == before + 1
    assert [path.name for path in tmp_path.iterdir()] == ["name.nc"]
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(BadInput, match="it is no file"):
        asked(2.0)


def test_many_at_once_and_what_a_killed_process_left(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    orphan = tmp_path / f".{this_process()[:4]}{ended.pid:06x}000000.tmp"
    orphan.touch()
    expected = xr.Dataset({"a": ("x", np.arange(5000.0))})
    with ThreadPoolExecutor(8) as threads:
        found = threads.map(lambda i: Finished(tmp_path).dataset({}, expected.copy), range(40))
        assert all(one.identical(expected) for one in found)
    assert [path.suffix for path in tmp_path.iterdir()] == [".nc"]


class _Halting(torch.nn.Module):
    """A model whose code and weights are known, and which stops in the middle of a run."""

    left = 10**9

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.rnn = torch.nn.GRU(3, 4, batch_first=True)

    def forward(self, x):
        return self.rnn(x)[0].tanh()


def test_finished_cases_of_a_model_are_taken_up(tmp_path, monkeypatch):
    kept, x = Finished(tmp_path / "partial"), np.random.default_rng(0).normal(size=(12, 3))
    measured = []
    plain = jacobian_probe.jacobians_at_depths

    def spy(module, *arguments, **options):
        if len(measured) == 2:
            measured.append(None)
            raise KeyboardInterrupt
        measured.append(module)
        return plain(module, *arguments, **options)

    monkeypatch.setattr(jacobian_probe, "jacobians_at_depths", spy)
    with pytest.raises(KeyboardInterrupt):
        depprobe.jacobian({"A": _Halting}, x, seeds=4, finished=kept)
    resumed = depprobe.jacobian({"A": _Halting}, x, seeds=4, finished=kept)
    assert len(measured) == 3 + 2, "two draws were finished"
    assert resumed.identical(depprobe.jacobian({"A": _Halting}, x, seeds=4))

    def other(seed):
        module = _Halting(seed)
        with torch.no_grad():
            module.rnn.weight_hh_l0[0, 0] += 1e-3
        return module

    before = len(measured)
    depprobe.jacobian({"A": other}, x, seeds=4, finished=kept)
    assert len(measured) == before + 4, "other weights are other cases"


PROBES = {
    "gates": ("gates", {"n": 12, "d": 4}),
    "lyapunov": ("lyapunov", {"n": 12, "d": 4, "exponents": 3}),
    "lyapunov with determinants": ("lyapunov", {"n": 12, "d": 3, "exponents": "all", "drive": "none"}),
    "spectrum": ("spectrum", {"d": 4, "grid": 5}),
    "leading modes of steps": ("spectrum", {"n": 6, "d": 8, "steps": "last", "dense": 4, "modes": 2}),
}


@pytest.mark.parametrize("name", PROBES)
def test_finished_cases_of_every_probe_are_taken_up(name, tmp_path):
    def stop(done, total, label):
        if done == 2:
            raise KeyboardInterrupt

    probe, options = PROBES[name]
    measure = getattr(depprobe, probe)
    plain = measure("lstm", **options, seeds=3)
    with pytest.raises(KeyboardInterrupt):
        measure("lstm", **options, seeds=3, finished=tmp_path / "kept", progress=stop)
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "kept").glob("*.npz")}
    assert files
    assert measure("lstm", **options, seeds=3, finished=str(tmp_path / "kept")).identical(plain)
    assert files == {file: file.stat().st_mtime_ns for file in files}, "taken up as they were"
    assert measure("lstm", **options, seeds=3, finished=tmp_path / "kept").identical(plain)
    measure("lstm", **options, seeds=3, seed=1, finished=tmp_path / "kept")
    assert len(list((tmp_path / "kept").glob("*.npz"))) > len(plain.get("matrix_seed", range(3)))


def test_an_interrupted_command_takes_up_and_leaves_nothing(run, tmp_path, monkeypatch):
    from depprobe.probes import gates

    plain, calls = gates._measure, []

    def spy(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(*arguments)

    monkeypatch.setattr(gates, "_measure", spy)
    words = (
        "gates",
        "--layer",
        "gru",
        "--n",
        "8",
        "--d",
        "4",
        "--seeds",
        "4",
        "-o",
        "a.nc",
        "--figure",
        "a.png",
    )
    assert run(*words)[0] == 130
    assert (tmp_path / "a.nc.partial").is_dir()
    assert run(*words)[0] == 0
    assert len(calls) == 3 + 2
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.nc", "a.png"]


def test_an_exact_row_of_many_outputs_is_refused_before_it_is_made():
    module = torch.nn.Sequential(torch.nn.Linear(2, 40_000), torch.nn.Tanh())
    with pytest.raises(depprobe.OverBudget, match=r"an exact row of 40000 outputs .*--method probes"):
        depprobe.jacobian(module, np.ones((3, 2)), method="autograd", memory="100MiB")


class _Read(torch.nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second = (torch.nn.GRU(5, 5, batch_first=True) for _ in range(2))
        self.head = torch.nn.Linear(5, 12)

    def forward(self, x):
        h = self.first(x)[0].tanh()
        return self.head(self.second(h)[0] + h.cumsum(-2).sin())


#: what was asked -> the whole, measured without an interruption, and its batches
_WHOLE: dict[str, tuple[xr.Dataset, int]] = {}


@pytest.mark.parametrize("share", [0.04, 0.5])
@pytest.mark.parametrize(
    "asked",
    [
        *({}, {"norm": "fisher"}, {"norm": "spectral"}, {"method": "autograd"}, {"wrt": "*"}, {"of": "*"}),
        *({"method": "probes", "probes": 2}, {"method": "probes", "wrt": "*"}),
    ],
    ids=str,
)
def test_a_case_is_taken_up_in_its_middle(tmp_path, monkeypatch, asked, share):
    monkeypatch.setattr(under_way, "_EVERY", -1.0)
    monkeypatch.setattr(traces, "pulled_at_once", lambda *given: 2)
    monkeypatch.setattr(device, "_CACHED", 0)
    kept, x = Finished(tmp_path / "partial"), np.random.default_rng(0).normal(size=(16, 5))
    given = {"targets": "every:2", "method": "auto"} | asked
    batches: list[int] = []
    watched = under_way.watched

    def count(watch):
        batches.append(1)
        return watched(watch)

    monkeypatch.setattr(under_way, "watched", count)

    def halt(done: float, total: int, label: str) -> None:
        if done > share * total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        depprobe.jacobian({"A": _Read}, x, finished=kept, progress=halt, **given)
    before = len(batches)
    resumed = depprobe.jacobian({"A": _Read}, x, finished=kept, **given)
    between = len(batches)
    if str(asked) not in _WHOLE:
        found = depprobe.jacobian({"A": _Read}, x, progress=lambda *_: None, **given)
        _WHOLE[str(asked)] = found, len(batches) - between
    whole, of_whole = _WHOLE[str(asked)]
    assert resumed.identical(whole)
    # the batch that was under way is measured twice
    assert between <= of_whole + 1, "finished batches were taken up"
    assert before > 0


@pytest.mark.parametrize("method", ["auto", "autograd"])
def test_what_was_kept_in_pieces_of_another_size_is_not_taken_up(tmp_path, monkeypatch, method):
    monkeypatch.setattr(under_way, "_EVERY", -1.0)
    kept, x = Finished(tmp_path / "partial"), np.random.default_rng(0).normal(size=(16, 5))

    def halt(done: float, total: int, label: str) -> None:
        if done > 0.5 * total:
            raise KeyboardInterrupt

    with monkeypatch.context() as small:
        small.setattr(traces, "pulled_at_once", lambda *given: 1)
        small.setattr(device, "_CACHED", 0)
        with pytest.raises(KeyboardInterrupt):
            depprobe.jacobian({"A": _Read}, x, finished=kept, progress=halt, method=method)
    assert list(kept.folder.glob("*.npz")), "something was kept"
    monkeypatch.setattr(traces, "pulled_at_once", lambda *given: 3)
    monkeypatch.setattr(device, "_CACHED", 3 * 16 * 5 * 4)
    resumed = depprobe.jacobian({"A": _Read}, x, finished=kept, method=method)
    whole = depprobe.jacobian({"A": _Read}, x, method=method)
    np.testing.assert_allclose(resumed.log_norm, whole.log_norm, rtol=0, atol=1e-9)


class Scaled(torch.nn.Module):
    """Reads along either axis; what it computes hangs on an attribute and on its call."""

    def __init__(self, shape=torch.tanh):
        super().__init__()
        self.read, self.shape = torch.nn.Linear(4, 4, dtype=torch.float64), shape

    def forward(self, x, scale=1.0):
        return self.shape(self.read(x)).cumsum(-2) * scale


def scaled(**how):
    torch.manual_seed(0)
    return Scaled(**how)


def shapes(factor):
    return lambda y: factor * y


SEQUENCE = torch.randn(12, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
FAR = np.arange(5000.0)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (({}, {"layout": "n d"}), ({}, {"layout": "b n d", "forward": {"scale": 2.0}})),
        (
            ({}, {"forward": {"scale": torch.tensor(1.0)}, "layout": "n d"}),
            ({}, {"forward": {"scale": torch.tensor(3.0)}, "layout": "n d"}),
        ),
        (({"shape": torch.tanh}, {"layout": "n d"}), ({"shape": torch.relu}, {"layout": "n d"})),
        (({"shape": shapes(2.0)}, {"layout": "n d"}), ({"shape": shapes(3.0)}, {"layout": "n d"})),
    ],
    ids=["argument", "tensor argument", "function", "closure"],
)
def test_what_follows_from_other_calls_is_not_taken_up(tmp_path, one, other):
    kept = tmp_path / "kept"
    found = [depprobe.jacobian(scaled(**how), SEQUENCE, finished=kept, **call) for how, call in (one, other)]
    fresh = [depprobe.jacobian(scaled(**how), SEQUENCE, **call) for how, call in (one, other)]
    for again, measured in zip(found, fresh, strict=True):
        xr.testing.assert_equal(again.log_norm, measured.log_norm)
    assert not found[0].log_norm.equals(found[1].log_norm)


def test_another_layout_is_refused_whatever_is_kept(tmp_path):
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.GRU(4, 4, batch_first=True), torch.nn.Tanh()).double()
    depprobe.jacobian(module, SEQUENCE, layout="b n d", finished=tmp_path / "kept")
    with pytest.raises(BadInput, match="layout 'n b d'"):
        depprobe.jacobian(module, SEQUENCE, layout="n b d", finished=tmp_path / "kept")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.arange(5000), torch.where(torch.arange(5000) == 2500, 0, torch.arange(5000))),
        (np.ones(3, np.float32), np.ones(3)),
        ([1, [2]], [[1], 2]),
        ({"a": FAR}, {"b": FAR}),
        ([FAR, SEQUENCE, FAR], [FAR, SEQUENCE, SEQUENCE]),
        (partial(shapes, 2), partial(shapes, 3)),
        (torch.nn.ReLU(), torch.nn.GELU()),
    ],
)
def test_values_that_differ_have_other_digests(one, other):
    assert digest_of(one) != digest_of(other)


def test_a_class_written_in_a_notebook_is_known_by_its_code(tmp_path):
    def written(factor):
        space = {"nn": torch.nn, "FACTOR": factor, "__name__": "notebook"}
        code = "class Net(nn.Linear):\n    def forward(self, x):\n        return helped(super().forward(x))\n"
        exec(f"def helped(y):\n    return y * FACTOR\n{code}", space)
        torch.manual_seed(0)
        return space["Net"](4, 4).double()

    kept = tmp_path / "kept"
    two, three = (depprobe.jacobian(written(k), SEQUENCE, finished=kept).log_norm for k in (2.0, 3.0))
    assert float((three - two)[0, -1]) == pytest.approx(np.log(1.5))
    assert digest_of(written(2.0)) == digest_of(written(2.0))
