"""Datasets on disk: what goes in comes out, bit for bit, and nothing is ever half-written."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
from curve_cases import last_row
from matplotlib.figure import Figure

import depprobe
from depprobe import store
from depprobe.errors import BadInput, DepprobeError
from depprobe.runs.labelling import fingerprint, provenance
from depprobe.store import files as netcdf_files
from depprobe.vocabulary import ATTRIBUTES, SCHEMA_VERSION, describe, status_of


def jacobian(targets=7, sources=301, layers=None):
    """A valid dataset with zeros and unknowns, large enough to be compressed."""
    rng = np.random.default_rng(0)
    values = rng.normal(-5000, 300, (targets, sources))
    values[:, sources // 2 :] = -np.inf
    values[0, :3] = np.nan, -0.0, 5e-324
    names = ("target", "source")
    attrs = {
        "title": "temporal Jacobian of é",
        "norm": "fro",
        "wrt": "x",
        "method": "chain",
        "tolerance": 1e-6,
        "layer": "lstm",
        "n": sources,
        "d": 16,
        "seed": 0,
        "dtype": "float64",
        "depprobe_version": "0.1.0",
        "schema_version": SCHEMA_VERSION,
        "provenance": provenance("depprobe jacobian", values),
    }
    coords = {
        "target": ("target", np.arange(targets), describe("target")),
        "source": ("source", np.arange(sources), describe("source")),
        "position": ("target", np.arange(targets) + 0.5, describe("position")),
    }
    lag = 1 + np.subtract.outer(np.arange(targets), np.arange(sources))
    coords["lag"] = (names, lag.astype(np.int32), describe("lag"))
    if layers is not None:
        values, names = np.stack([values] * len(layers)), ("layer", *names)
        coords["layer"] = ("layer", np.array(layers), describe("layer"))
        coords["method"] = ("layer", np.array(["chain"] * len(layers)), {"long_name": "method", "units": "1"})
        coords["tolerance"] = ("layer", np.zeros(len(layers)), {"long_name": "tolerance", "units": "1"})
        attrs = {name: value for name, value in attrs.items() if name not in ("layer", "method", "tolerance")}
    variables = {"log_norm": (names, values, describe("log_norm"))}
    variables["log_norm_status"] = (names, status_of(values), describe("log_norm_status"))
    return xr.Dataset(variables, coords, attrs)


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


# what goes in comes out


def test_round_trip_keeps_every_bit_and_every_label(tmp_path):
    ds = jacobian(layers=["lstm:forget_bias=2", "dilated-conv:kernel=3,depth=6"])
    ds.attrs |= {
        "list": [1, 2],
        "names": ["a", "b"],
        "empty": "",
        "long": "y" * 100_000,
        "float": np.float32(3),
    }
    # xarray would turn this unit into time differences
    ds["elapsed"] = ("target", np.arange(7.0), {"long_name": "time", "units": "seconds"})
    ds["scalar"] = ((), 3.5)
    loaded = store.load(store.save(ds, tmp_path / "a.nc"))
    xr.testing.assert_identical(loaded, ds)
    assert loaded["log_norm"].values.tobytes() == ds["log_norm"].values.tobytes()
    assert loaded["elapsed"].dtype == np.float64
    json.dumps(loaded.attrs)
    assert {type(loaded.attrs[name]) for name in ("seed", "float", "list")} == {int, float, list}


def test_status_is_stored_as_flags_that_other_programs_read(tmp_path):
    ds = jacobian()
    path = store.save(ds, tmp_path / "a.nc")
    with h5py.File(path) as file:
        status = file["log_norm_status"]
        assert (status.dtype, status.attrs["_FillValue"].item()) == (np.int8, 0)
        assert (status.attrs["flag_values"].dtype, status.attrs["flag_values"].tolist()) == (
            np.int8,
            [*range(7)],
        )
    loaded = store.load(path)
    assert loaded["log_norm_status"].dtype == np.int8
    assert ds["log_norm_status"].attrs == loaded["log_norm_status"].attrs == describe("log_norm_status")
    store.validate(loaded)
    # joined to one that has other targets, what is missing is not measured
    with xr.open_dataset(path, engine="h5netcdf") as plain:
        joined = xr.concat([plain, plain.assign_coords(target=plain.target + 1)], dim="sample", join="outer")
        missing = np.isnan(joined["log_norm_status"].values)
    assert missing.reshape(2, -1).any(1).all()


def test_version_1_is_read_as_version_2(tmp_path):
    old = jacobian().drop_vars("log_norm_status").assign_attrs(schema_version="1")
    new = store.load(store.save(old, tmp_path / "old.nc"))
    store.validate(new)
    xr.testing.assert_identical(new, jacobian())
    with pytest.raises(BadInput, match="unknown schema version '1'; known: '2'"):
        store.validate(old)


def test_version_1_by_lag_knows_what_lies_outside(tmp_path):
    values = np.array([[0.0, np.nan], [np.nan, -1.0]])
    old = xr.Dataset(
        {"log_norm": (("target", "lag"), values)},
        {"target": [0, 1], "lag": [0, 1], "position": ("target", [0.0, 1.0])},
        {"n": 2, "schema_version": "1"},
    )
    new = store.load(store.save(old, tmp_path / "old.nc"))
    assert new["log_norm_status"].values.tolist() == [[1, 0], [5, 1]]


def test_empty_dataset_and_empty_dimension(tmp_path):
    ds = xr.Dataset({"log_norm": (("target", "source"), np.empty((0, 4)))})
    xr.testing.assert_identical(store.load(store.save(ds, tmp_path / "a.nc")), ds)


def test_same_dataset_same_bytes(tmp_path):
    first = store.save(jacobian(), tmp_path / "a.nc").read_bytes()
    # HDF5 counts time in seconds
    time.sleep(1.1)
    again = store.save(store.load(tmp_path / "a.nc"), tmp_path / "other" / "b.nc").read_bytes()
    assert first == again


def test_same_bytes_while_a_profiler_holds_what_runs(tmp_path):
    held, done, caller = [], threading.Event(), threading.get_ident()

    def sample():
        while not done.wait(0.004):
            held[:] = [sys._current_frames()[caller]]

    profiler = threading.Thread(target=sample)
    plain = store.save(jacobian(), tmp_path / "a.nc").read_bytes()
    profiler.start()
    found = {store.save(jacobian(), tmp_path / "b.nc").read_bytes() for _ in range(20)}
    done.set()
    profiler.join()
    assert found == {plain}


#: saves the dataset that comes on standard input, and prints what is wrong
SAVING = """
import pickle, resource, sys
from depprobe import store
from depprobe.errors import DepprobeError
ds = pickle.load(sys.stdin.buffer)
try: store.save(ds, sys.argv[1])
except DepprobeError as error: print(error)
"""


def in_another_process(ds, path, before):
    """What a new interpreter prints that does something before it saves a dataset."""
    code = SAVING.replace("try:", f"{before}\ntry:")
    root = {"PYTHONPATH": str(Path(depprobe.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        input=pickle.dumps(ds),
        capture_output=True,
        env=os.environ | root,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode()


def test_same_bytes_from_another_process(tmp_path):
    # provenance names torch where it is loaded, which differs between the two processes
    store.save(jacobian().assign_attrs(provenance="{}"), tmp_path / "a.nc")
    assert not in_another_process(jacobian().assign_attrs(provenance="{}"), tmp_path / "b.nc", "")
    assert (tmp_path / "a.nc").read_bytes() == (tmp_path / "b.nc").read_bytes()


@pytest.mark.parametrize("ds", [jacobian(), jacobian(layers=["lstm", "gru"]), last_row(np.arange(5.0))])
def test_opening_items_once_stores_the_same_in_less_time(ds, tmp_path, monkeypatch):
    def seconds(kind):
        monkeypatch.setattr(netcdf_files, "_Remembering", kind)
        start = time.process_time()
        store.save(ds, tmp_path / f"{kind.__name__}.nc")
        return time.process_time() - start

    kinds = netcdf_files._Remembering, h5py.File
    took = np.min([[seconds(kind) for kind in kinds] for _ in range(7)], 0)
    ours, plain = [tmp_path / f"{kind.__name__}.nc" for kind in kinds]
    xr.testing.assert_identical(store.load(ours), store.load(plain))
    assert ours.stat().st_size == plain.stat().st_size
    assert took[0] < 0.85 * took[1]


def test_packing_of_another_file_does_not_leak(tmp_path):
    ds = jacobian()
    ds["log_norm"].encoding = {"dtype": "float32", "scale_factor": 100.0, "_FillValue": -1.0}
    ds.encoding = {"unlimited_dims": {"target"}}
    packed, plain = store.save(ds, tmp_path / "a.nc"), store.save(jacobian(), tmp_path / "b.nc")
    assert packed.read_bytes() == plain.read_bytes()
    assert store.load(packed)["log_norm"].encoding == {}


def test_large_variables_are_compressed(tmp_path):
    ds = xr.Dataset({"log_norm": (("target", "source"), np.full((300, 300), -np.inf))})
    assert store.save(ds, tmp_path / "a.nc").stat().st_size < 300 * 300 * 8 / 10


def test_loaded_dataset_no_longer_needs_its_file(tmp_path):
    path = store.save(jacobian(), tmp_path / "a.nc")
    loaded = store.load(path)
    path.unlink()
    xr.testing.assert_identical(loaded, jacobian())


# what netCDF cannot hold


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (True, "bool True; write 0 or 1"),
        (np.bool_(False), "bool"),
        (None, "is None; leave it out"),
        ({"a": 1}, "is a dict; write it as a JSON string"),
        (1j, "is complex"),
        (np.complex64(1j), "is complex"),
        ([], "empty list"),
        ([1, "a"], "strings and numbers"),
        ([[1, 2]], "nested list"),
        (np.zeros((2, 2)), "nested list"),
        ([1, None], "is None"),
        ([True], "bool"),
        (2**63, "beyond 64 bits"),
        (np.float16(1), "float16"),
        (b"bytes", "is a bytes"),
        ("a\0b", "not storable text"),
        ("\ud800", "not storable text"),
        (object(), "is a object; use a number, a string or a list"),
    ],
)
@pytest.mark.parametrize("place", ["dataset", "variable"])
def test_refuses_attributes(tmp_path, value, fault, place):
    ds = jacobian()
    holder = ds if place == "dataset" else ds["log_norm"]
    holder.attrs["odd"] = value
    where = "of the dataset" if place == "dataset" else "of variable 'log_norm'"
    with pytest.raises(BadInput, match=f"attribute 'odd' {where} .*{fault}"):
        store.save(ds, tmp_path / "a.nc")
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        (np.array([True, False]), "is bool; .* write 0 and 1"),
        (np.array([1j, 2]), "is complex128; .* use the dimension 'part'"),
        (np.array([1.0, None]), "is object"),
        (np.array([1, 2], np.float16), "is float16"),
        (np.array(["2020-01-01", "2020-01-02"], "datetime64[ns]"), "is datetime64"),
        (np.array([b"a", b"b"]), "is |S1"),
    ],
)
def test_refuses_variables(tmp_path, values, fault):
    ds = xr.Dataset({"odd": ("target", values)})
    with pytest.raises(BadInput, match=f"variable 'odd' {fault}"):
        store.save(ds, tmp_path / "a.nc")
    assert files(tmp_path) == []


@pytest.mark.parametrize("name", ["a/b", 3, ""])
def test_refuses_names(tmp_path, name):
    with pytest.raises(BadInput, match="variable name"):
        store.save(xr.Dataset({name: ("target", [1.0])}), tmp_path / "a.nc")


def test_refuses_reserved_attribute_names(tmp_path):
    with pytest.raises(BadInput, match=r"cannot store the dataset: .*_NCProperties"):
        store.save(jacobian().assign_attrs(_NCProperties="mine"), tmp_path / "a.nc")
    assert files(tmp_path) == []


# files that cannot be read


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.9999])
def test_truncated_file(tmp_path, share):
    path = store.save(jacobian(), tmp_path / "a.nc")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(BadInput, match=r"cannot read '.*a\.nc': .*(truncated|not a netCDF-4)") as caught:
        store.load(path)
    assert "\n" not in str(caught.value)


def test_any_flipped_bit_is_noticed(tmp_path):
    path = store.save(jacobian(), tmp_path / "a.nc")
    whole = path.read_bytes()
    places = np.random.default_rng(0).integers(8, 8 * len(whole), 100)
    for byte, bit in [divmod(int(place), 8) for place in places]:
        path.write_bytes(whole[:byte] + bytes([whole[byte] ^ 1 << bit]) + whole[byte + 1 :])
        with pytest.raises(BadInput, match=r"cannot read '.*a\.nc'"):
            store.load(path)


def test_what_another_program_changed_is_read_as_its_own(tmp_path):
    path = store.save(jacobian(), tmp_path / "a.nc")
    with h5py.File(path, "a") as file:
        file.attrs["note"] = "mine"
    assert store.load(path).attrs["note"] == "mine"


def test_locks_are_neither_taken_nor_heeded(tmp_path):
    path = store.save(jacobian(), tmp_path / "a.nc")
    with path.open("rb+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="lock"):
            h5py.File(path).close()
        assert store.load(path).attrs["title"] == jacobian().attrs["title"]
        store.save(jacobian(), path)


def test_a_full_disk_is_one_line(tmp_path):
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))"
    said = in_another_process(jacobian(), tmp_path / "a.nc", limit)
    assert said == f"could not write {str(tmp_path / 'a.nc')!r}: file too large\n"
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "it is empty"),
        (b"CDF\x01" + bytes(100), "not a netCDF-4 file"),
        (b"lag,norm\n", "not a netCDF-4 file"),
    ],
)
def test_other_files(tmp_path, content, fault):
    path = tmp_path / "a.nc"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=rf"cannot read '.*a\.nc': .*{fault}"):
        store.load(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(BadInput, match=r"cannot read '.*none\.nc': no such file"):
        store.load(tmp_path / "none.nc")
    with pytest.raises(BadInput, match="it is a folder"):
        store.load(tmp_path)


def test_hdf5_that_is_not_netcdf(tmp_path):
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file["kernel"] = np.zeros((2, 3))
    with pytest.raises(BadInput, match=r"weights\.h5'.*HDF5 but not netCDF-4: its dimensions have no names"):
        store.load(tmp_path / "weights.h5")


def test_pickled_data_is_never_unpickled(tmp_path):
    path = tmp_path / "a.nc"
    ran = tmp_path / "ran"
    code = f"import pickle,os\nclass A:\n def __reduce__(self): return os.mkdir, ({str(ran)!r},)\n"
    code += f"open({str(path)!r},'wb').write(pickle.dumps(A()))"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(BadInput, match="not a netCDF-4 file"):
        store.load(path)
    assert not ran.exists()


# whole or not at all


@pytest.mark.parametrize(
    ("failure", "seen", "message"),
    [
        (KeyboardInterrupt("^C"), KeyboardInterrupt, "C"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            DepprobeError,
            r"could not write '.*a\.nc': no space",
        ),
        (RuntimeError("broken"), RuntimeError, "broken"),
        (ValueError("two\nlines"), BadInput, "cannot store the dataset: two lines"),
    ],
)
def test_failure_midway_leaves_the_old_file(tmp_path, monkeypatch, failure, seen, message):
    path = store.save(jacobian(), tmp_path / "a.nc")
    before = path.read_bytes()

    def half(temporary, content):
        with temporary.open("wb") as stream:
            stream.write(content[: len(content) // 2])
        raise failure

    def refused(self, file, **kwargs):
        raise failure

    if seen is BadInput:
        monkeypatch.setattr(xr.Dataset, "dump_to_store", refused)
    else:
        monkeypatch.setattr(Path, "write_bytes", half)
    for target in (path, tmp_path / "new.nc"):
        with pytest.raises(seen, match=message.replace("a\\.nc", target.name)) as caught:
            store.save(jacobian(), target)
        # a full disk is no fault of the call
        assert isinstance(caught.value, BadInput) == (seen is BadInput)
    assert files(tmp_path) == ["a.nc"]
    assert path.read_bytes() == before


def test_reader_never_meets_a_half_written_file(tmp_path, monkeypatch):
    path = store.save(jacobian(), tmp_path / "a.nc")
    write = Path.write_bytes
    seen = []

    def watched(temporary, content):
        assert temporary.parent == path.parent
        write(temporary, content)
        seen.append(store.load(path).attrs["title"])

    monkeypatch.setattr(Path, "write_bytes", watched)
    before = path.read_bytes()
    with path.open("rb") as reader:
        store.save(jacobian().assign_attrs(title="new"), path)
        # who has opened the old file still reads all of it
        assert reader.read() == before
    assert seen == [jacobian().attrs["title"]]
    assert store.load(path).attrs["title"] == "new"
    assert files(tmp_path) == ["a.nc"]


def test_unwritable_places(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"cannot write '.*file/a.nc': "):
        store.save(jacobian(), tmp_path / "file" / "a.nc")
    with pytest.raises(BadInput, match=r"cannot write '.*': it is a folder"):
        store.save(jacobian(), tmp_path)
    with pytest.raises(BadInput, match="cannot write '/dev/null': it is no file"):
        store.save(jacobian(), "/dev/null")
    with pytest.raises(BadInput, match=r"cannot write '.*': file name too long"):
        store.save(jacobian(), tmp_path / ("a" * 300))
    assert files(tmp_path) == ["file"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(BadInput, match=r"cannot write '.*a.nc': permission denied"):
        store.save(jacobian(), tmp_path / "a.nc")


def test_permission_denied_is_one_line(tmp_path, monkeypatch):
    def denied(self, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.Path.touch", denied)
    with pytest.raises(BadInput, match=r"^cannot write '.*a.nc': permission denied$"):
        store.save(jacobian(), tmp_path / "a.nc")


def test_makes_folders_and_follows_links(tmp_path):
    real = store.save(jacobian(), tmp_path / "deep" / "er" / "a.nc")
    link = tmp_path / "link.nc"
    link.symlink_to(real)
    store.save(jacobian().assign_attrs(title="new"), link)
    assert link.is_symlink()
    assert store.load(real).attrs["title"] == "new"


def test_longest_file_name(tmp_path):
    store.save(jacobian(), tmp_path / ("a" * 252 + ".nc"))
    assert len(files(tmp_path)) == 1


def test_file_gets_the_usual_permissions(tmp_path):
    plain = tmp_path / "plain"
    plain.touch()
    assert store.save(jacobian(), tmp_path / "a.nc").stat().st_mode == plain.stat().st_mode


# the contract


def test_valid_datasets():
    store.validate(jacobian())
    store.validate(jacobian(layers=["lstm", "gru"]))
    strided = jacobian(layers=["lstm", "conv:stride=2"])
    position = strided["position"].expand_dims(layer=2)
    store.validate(strided.drop_vars("position").assign_coords(position=position))
    # where outputs sit is not known of every module
    store.validate(jacobian().drop_vars("position"))


def coded(ds, old, new):
    status = ds["log_norm_status"].copy()
    status.values[status.values == old] = new
    return ds.assign(log_norm_status=status)


def unflagged(ds):
    del ds["log_norm_status"].attrs["flag_meanings"]
    return ds


def with_own(ds):
    return ds.assign(own=ds["log_norm"].drop_attrs())


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda ds: ds.drop_vars("log_norm_status"), "no variable 'log_norm_status' beside log_norm"),
        (
            lambda ds: ds.assign(log_norm_status=ds.log_norm_status * 1.0),
            "log_norm_status is float64, not int8",
        ),
        (lambda ds: coded(ds, 1, 9), "holds codes other than 0 to 6; .*what is finite in 1049 blocks"),
        (lambda ds: coded(ds, 2, 3), "disagree on what is zero in 1057 blocks"),
        (lambda ds: ds.assign(log_norm=ds.log_norm.fillna(np.inf)), r"log_norm is \+inf"),
        (lambda ds: unflagged(ds), "has not the flags 'not_measured finite zero underflow"),
        (lambda ds: ds.rename(source="time"), "unknown dimension 'time' .known: target, source"),
        (
            lambda ds: ds.rename(source="unit"),
            r"log_norm is over \(target, unit\), not over \(target, source\)",
        ),
        (lambda ds: ds.expand_dims(head=2), r"log_norm is over \(head, target, source\)"),
        (lambda ds: ds.rename(log_norm="norm"), "no variable 'log_norm'"),
        (lambda ds: with_own(ds), "variable 'own' has no long_name and no units"),
        (
            lambda ds: ds.assign(log_norm=ds.log_norm.astype("float32").assign_attrs(ds.log_norm.attrs)),
            "float32",
        ),
        (
            lambda ds: ds.assign_coords(position=("source", ds.source.values * 1.0, describe("position"))),
            "position is not over target, or layer and target",
        ),
        (lambda ds: ds.assign_attrs(schema_version="999"), "unknown schema version '999'; known: '2'"),
        (lambda ds: ds.assign(log_norm_error=ds.log_norm[0]), "log_norm_error is not over the dimensions"),
    ],
)
def test_faults_are_named(spoil, fault):
    with pytest.raises(BadInput, match=f"not a valid dataset: .*{fault}"):
        store.validate(spoil(jacobian()))


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_missing_attribute(name):
    ds = jacobian()
    del ds.attrs[name]
    with pytest.raises(BadInput, match=f"missing attributes: {name}$"):
        store.validate(ds)


def test_method_of_several_layers_is_a_coordinate():
    with pytest.raises(BadInput, match=r"missing attributes: method$"):
        store.validate(jacobian(layers=["lstm", "gru"]).drop_vars("method"))


def test_all_faults_in_one_line():
    ds = with_own(jacobian()).drop_vars("log_norm_status")
    del ds.attrs["norm"]
    with pytest.raises(BadInput) as caught:
        store.validate(ds)
    for fault in ("norm", "'own'", "log_norm_status"):
        assert fault in str(caught.value)
    assert "\n" not in str(caught.value)


# where a dataset comes from


def test_provenance_is_the_same_every_time():
    x = np.random.default_rng(0).normal(size=(5, 3))
    first = provenance("depprobe jacobian", x, weights="abc", other=1)
    time.sleep(0.01)
    assert first == provenance("depprobe jacobian", x.copy(), other=1, weights="abc")
    record = json.loads(first)
    assert record["command"] == "depprobe jacobian"
    assert record["weights"] == "abc"
    assert record["input_sha256"] == fingerprint(x)
    assert set(record["versions"]) == {"depprobe", "python", "numpy", "torch", "xarray"}


def test_fingerprint_sees_values_shape_and_type_but_not_layout():
    x = np.arange(6.0).reshape(2, 3)
    same = [x.copy(order="F"), x.astype(">f8"), np.repeat(x, 2, axis=1)[:, ::2]]
    assert {fingerprint(y) for y in same} == {fingerprint(x)}
    for other in (x + 1e-15, x.reshape(3, 2), x.astype(np.float32), x.astype(int)):
        assert fingerprint(other) != fingerprint(x)
    with pytest.raises(BadInput, match="takes numbers, not object"):
        fingerprint([None])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda ds: store.save([ds, ds], "a.nc"), "save takes one dataset, not list: save each to a file"),
        (lambda ds: store.save(3, "a.nc"), "save takes one dataset, not int"),
        (lambda ds: store.save(ds, None), "a path is a string or a Path, not NoneType"),
        (lambda ds: store.load(None), "a path is a string or a Path, not NoneType"),
        (lambda ds: store.validate(3), "not a valid dataset: int"),
        (lambda ds: depprobe.figures.save(3, "a.png"), "save takes a figure .* not int"),
        (lambda ds: depprobe.figures.save(Figure(), 3), "a path is a string or a Path, not int"),
        (lambda ds: depprobe.figures.decay(ds, labels=3), "labels are a list of names.* not int"),
        (lambda ds: depprobe.figures.decay(ds, floor="x"), "floor is a log10 .* got 'x'"),
        (lambda ds: depprobe.figures.heatmap(ds, ceiling="x"), "ceiling is a log10 .* got 'x'"),
        (lambda ds: depprobe.figures.decision(3), "draws maps"),
        (lambda ds: depprobe.scaling(3), "not a dataset of costs"),
        (lambda ds: depprobe.distances(ds, seed="a"), "seed must be at least 0; got 'a'"),
    ],
)
def test_wrong_arguments_are_one_line(call, message):
    with pytest.raises(BadInput, match=message):
        call(last_row([0.0, -1.0, -2.0]))
