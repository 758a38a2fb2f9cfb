"""Hostile input: one line or a result, within the time and memory of a small file, and no harm.

``make fuzz`` draws a hundred thousand cases. Watched while each is read, through Python's audit hooks: files
opened for writing, processes started, sockets, classes that unpickling would import.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
import warnings
from pathlib import Path

import pytest
from fuzz_targets import TARGETS, read_configuration, seed_file
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from depprobe.errors import DepprobeError, harmless

#: cases of each kind
TIMES = int(os.environ.get("DEPPROBE_FUZZ", "0")) or 12
#: bytes that reading a small file may take beyond what the process has
ROOM = 1 << 30
HARM = {"os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "pickle.find_class"}
#: whose classes torch's loader of weights and dask's own graphs ask for by name
OWN = ("torch", "collections", "dask", "xarray", "numpy", "pandas", "depprobe")
_LONG = "DEPPROBE_FUZZ" in os.environ
_SETTINGS = settings(
    max_examples=TIMES,
    deadline=5000,
    derandomize=not _LONG,
    database=None,
    suppress_health_check=list(HealthCheck),
)

# files are long
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")

_watching: list[tuple[Path, list[str]]] = []


def _watch(event: str, given: tuple) -> None:
    if not _watching:
        return
    folder, seen = _watching[-1]
    if event in HARM:
        if event != "pickle.find_class" or given[0].split(".")[0] not in OWN:
            seen.append(f"{event} {given!r:.100}")
    elif event == "open" and isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        place = os.path.realpath(os.fsdecode(given[0])) if isinstance(given[0], str | bytes) else ""
        if place and not place.startswith((str(folder), "/dev/")) and "__pycache__" not in place:
            seen.append(f"wrote {place}")


@pytest.fixture(scope="module", autouse=True)
def _little_memory(tmp_path_factory):
    sys.addaudithook(_watch)
    for kind in ("npy", "npz", "pt", "safetensors", "csv", "wav", "json", "toml", "plan", "nc"):
        seed_file(kind)
    if "tokenizer" in TARGETS:
        TARGETS["tokenizer"][1](seed_file("tokenizer"), tmp_path_factory.mktemp("tokenizer"))
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + ROOM, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def harm_of(name: str, value: object, folder: Path) -> list[str]:
    """What reading the value did that it must not; raises what is no ``DepprobeError``."""
    reader, seen = TARGETS[name][1], []
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    _watching.append((folder, seen))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader(value, folder)
    except DepprobeError as error:
        said = " ".join(str(error).split())
        if not said or len(said) > 5000:
            seen.append(f"says {said!r:.100}")
    finally:
        _watching.pop()
    return seen


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_does_harm(name, tmp_path):
    @_SETTINGS
    @given(TARGETS[name][0])
    def check(value):
        assert harm_of(name, value, tmp_path / "here") == []

    check()


_ARGUMENT = st.one_of(TARGETS["spec"][0], TARGETS["targets"][0])


@pytest.mark.parametrize("option", ["--layer", "--targets", "--input", "--of", "--position"])
def test_no_argument_reaches_the_terminal_as_it_is(option, run, tmp_path):
    @_SETTINGS
    @given(_ARGUMENT)
    def check(text):
        small = ["--layer", "gru", "--n", "4", "--d", "2", "-o", "a.nc", "--figure", "a.png", "-q"]
        words = [option, text.replace("\0", ""), *small[2 * (option == "--layer") :]]
        code, out, err = run("jacobian", *words)
        assert code in (0, 1, 2)
        assert "Traceback" not in err
        assert err.count("\n") <= 1
        assert harmless(out + err) == out + err

    run("jacobian", "--layer", "gru", "--n", "4", "--d", "2", "-o", "b.nc")  # what a first call imports
    check()


def test_what_is_watched_is_seen(tmp_path):
    import pickle

    seen: list[str] = []
    _watching.append((tmp_path / "inner", seen))
    try:
        (tmp_path / "outside").write_text("")
        pickle.loads(pickle.dumps(Path))
    finally:
        _watching.pop()
    assert [line.split()[0] for line in seen] == ["wrote", "pickle.find_class"]


def test_a_configuration_nested_without_end_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(DepprobeError, match="it is nested too deep"):
        read_configuration(tmp_path / "config.json")
