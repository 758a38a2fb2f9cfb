"""Models of the user's own on the command line: what is printed and kept is what Python gives."""

import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import depprobe
from depprobe.cli.named_models import Named, named, targets_of
from depprobe.errors import BadInput

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 7, batch_first=True)
        self.read = nn.Linear(7, 2)

    def forward(self, x):
        return self.read(self.lstm(x)[0])

def make(seed):
    torch.manual_seed(seed)
    return Net()

def recurrent(seed):
    torch.manual_seed(seed)
    return nn.LSTM(3, 5, batch_first=True)

def embedded(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Embedding(256, 4), nn.LSTM(4, 3, batch_first=True))

def few(seed):
    return nn.Sequential(nn.Embedding(30, 4), nn.LSTM(4, 3, batch_first=True))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET)
    table = np.random.default_rng(0).standard_normal((40, 3))
    np.savetxt("data.csv", table, delimiter=",", header="a,b,c", comments="")
    Path("book.txt").write_text("It was the best of times, it was the worst of times, in short.")
    torch.save(namespace()["make"](9).state_dict(), "net.pt")
    return tmp_path


def namespace() -> dict:
    found: dict = {}
    exec(NET, found)
    return found


@pytest.fixture
def told(run, folder: Path):
    """Run the command where the models are: what it prints, on stderr where it is to fail."""

    def go(*words: str, expected: int = 0) -> str:
        code, out, err = run(*words)
        assert code == expected, err
        return out if expected == 0 else err

    return go


@pytest.mark.parametrize("factory", ["make", "recurrent", "convolution"])
def test_a_table_of_another_width_names_the_option_that_chooses_columns(told, factory) -> None:
    with open("net.py", "a") as code:
        code.write("def convolution(seed):\n    return nn.Conv1d(3, 3, 3, padding=1)\n")
    table = np.random.default_rng(0).standard_normal((40, 5))
    np.savetxt("wide.csv", table, delimiter=",", header="a,b,c,d,e", comments="")
    line = told("jacobian", "--model", f"net.py:{factory}", "--input", "wide.csv", expected=2)
    assert "of a table, --columns (in read_input columns=) chooses some" in line
    told("jacobian", "--model", f"net.py:{factory}", "--input", "wide.csv", "--columns", "a,b,c", "-q")


@pytest.mark.filterwarnings("always")
@pytest.mark.parametrize(("words", "lines"), [((), 3), (("-q",), 0), (("--quiet",), 0)])
def test_warnings_of_libraries_are_a_line_each_and_quiet_silences_them(
    run, folder, monkeypatch, words, lines
) -> None:
    # as in a process of its own, where nothing else takes what is logged
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    more = "import logging, warnings\ndef warned(seed):\n    warnings.warn('two\\nlines')\n"
    more += "    logging.getLogger('other').warning('logged %d', 3)\n    return make(seed)\n"
    Path("net.py").write_text(NET + more)
    code, _, err = run("jacobian", "--model", "\u4f60\u597d=net.py:warned", "--n", "9", *words)
    assert (code, err.count("\n")) == (0, lines), err
    assert not lines or {"depprobe: two lines", "depprobe: logged 3"} <= set(err.splitlines())


def test_a_checkpoint_on_a_table_gives_what_python_gives(told, monkeypatch) -> None:
    words = ["--model", "net.py:make", "--weights", "net.pt", "--input", "data.csv", "--n", "30", "-q"]
    monkeypatch.setattr(sys, "argv", ["depprobe", "jacobian", *words, "-o", "out.nc"])
    told(*sys.argv[1:])
    ds = xr.open_dataset("out.nc")
    module = namespace()["make"](9).eval()
    x = torch.from_numpy(np.loadtxt("data.csv", delimiter=",", skiprows=1)[:30]).float()
    expected = depprobe.jacobian(module, x, method="autograd").log_norm
    np.testing.assert_allclose(ds.log_norm, expected, atol=2e-5)
    assert ds.attrs["layer"] == "make"
    assert ds.attrs["dtype"] == "float32"
    assert "--model net.py:make --weights net.pt" in json.loads(ds.attrs["provenance"])["command"]


def test_models_and_layers_mix_and_keep_their_order(told) -> None:
    told(
        *("jacobian", "--layer", "gru", "--model", "A=net.py:make", "--weights", "net.pt", "--d", "6"),
        *("--model", "B=net.py:make", "--input", "data.csv", "--n", "20", "--dtype", "float64", "-q"),
        *("-o", "out.nc", "--seed", "9"),
    )
    ds = xr.open_dataset("out.nc")
    assert ds.layer.values.tolist() == ["gru", "A", "B"]
    # the weights in the file are those that the factory draws from the same seed
    np.testing.assert_array_equal(ds.log_norm.sel(layer="A"), ds.log_norm.sel(layer="B"))


@pytest.mark.parametrize("command", ["gates", "lyapunov", "spectrum"])
def test_other_questions_take_models_too(told, command: str) -> None:
    sizes = [] if command == "spectrum" else ["--n", "30", "--input", "data.csv"]
    told(command, "--model", "net.py:recurrent", *sizes, "-q", "-o", "out.nc")
    module = namespace()["recurrent"](0)
    x = torch.from_numpy(np.loadtxt("data.csv", delimiter=",", skiprows=1)[:30]).float()
    expected = getattr(depprobe, command)(module, *([] if command == "spectrum" else [x]))
    found = xr.open_dataset("out.nc")
    for name in expected.data_vars:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6, err_msg=str(name))


def test_text_reaches_an_embedding_as_bytes_and_noise_as_ids(told) -> None:
    told("jacobian", "--model", "net.py:embedded", "--input", "book.txt", "--n", "20", "-q", "-o", "out.nc")
    ids = np.frombuffer(Path("book.txt").read_bytes(), np.uint8)[:20].astype(np.int64)
    expected = depprobe.jacobian(namespace()["embedded"](0), torch.from_numpy(ids)).log_norm
    np.testing.assert_allclose(xr.open_dataset("out.nc").log_norm, expected, rtol=1e-6)
    told("jacobian", "--model", "net.py:few", "--n", "20", "-q", "--json")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "net.py:mak"], "did you mean 'make'"),
        (["--model", "net.py"], "named FILE.py:FACTORY or package.module:FACTORY"),
        (["--weights", "net.pt", "--model", "net.py:make"], "stands before any --model"),
        (
            ["--model", "net.py:recurrent", "--weights", "net.pt"],
            "net.pt does not fit LSTM: missing weight_ih_l0",
        ),
        (["--model", "net.py:make", "--weights", "net.pt", "--seeds", "2"], "weights of make are stored"),
        (["--model", "net.py:make", "--d", "9"], "make has its own width"),
        (["--model", "net.py:make", "--model", "net.py:make"], "two curves would be called 'make'"),
        (["--model", "net.py:few", "--input", "book.txt", "--n", "9"], "reads whole numbers from 0 to 29"),
        (["--model", "hf:gone"], "no such folder 'gone'"),
        (["--model", "net.py:make", "--theory"], "--theory is known of named layers alone"),
        ([], "give --layer SPEC or --model FILE.py:FACTORY"),
    ],
)
def test_a_wrong_call_is_told_in_one_line_and_nothing_is_written(
    folder: Path, told, words: list[str], said: str
) -> None:
    before = sorted(folder.rglob("*.nc"))
    error = told("jacobian", *words, expected=2)
    assert said in error
    assert error.count("\n") == 1
    assert sorted(folder.rglob("*.nc")) == before


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--layer", "lstm:forget_bias=2"], [Named("lstm:forget_bias=2", False)]),
        (["--layer=A=lstm:forget_bias=2"], [Named("lstm:forget_bias=2", False, "A")]),
        (["--model", "./a=b.py:make"], [Named("./a=b.py:make", True)]),
        (
            ["--model", "A=a.py:m", "--model", "B=b.py:m", "--weights", "A=a.pt", "--weights", "b=1.pt"],
            [Named("a.py:m", True, "A", "a.pt"), Named("b.py:m", True, "B", "b=1.pt")],
        ),
        (["-q", "--", "--layer", "rnn"], []),
    ],
)
def test_words_are_read_in_their_order(
    words: list[str], expected: list[Named], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "b=1.pt").touch()
    monkeypatch.chdir(tmp_path)
    assert named(words) == expected


def test_weights_of_no_model_are_refused() -> None:
    with pytest.raises(BadInput, match="unknown label of --weights 'a'"):
        named(["--model", "A=a.py:m", "--model", "net.py:make", "--weights", "a=a.pt"])


def test_labels_alone_make_a_mapping() -> None:
    assert targets_of(named(["--layer", "lstm", "--layer", "gru"])) == ["lstm", "gru"]
    assert targets_of(named(["--layer", "A=lstm", "--layer", "gru:gain=2"])) == {
        "A": "lstm",
        "gru:gain=2": "gru:gain=2",
    }
    with pytest.raises(BadInput, match="two files of weights"):
        named(["--model", "a.py:m", "--weights", "a.pt", "--weights", "b.pt"])


def test_what_a_model_prints_is_not_among_the_results(run, folder: Path) -> None:
    loud = NET.replace("        return", "        print('in forward')\n        return", 1)
    Path("loud.py").write_text(
        f"{loud}\nprint('imported')\ndef built():\n    print('built')\n    return Net()\n"
    )
    words = ("--model", "loud.py:built", "--input", "data.csv", "--n", "12", "--json", "-q")
    for command, more in {"jacobian": (), "cost": ("--seconds", "0.01")}.items():
        code, out, err = run(command, *words, *more, "-o", f"{command}.nc")
        assert code == 0, err
        json.loads(out)
        assert {"imported", "built", "in forward"} <= set(err.splitlines()), command


def test_a_class_with_another_argument_than_the_seed_is_not_given_the_seed(told) -> None:
    sized = "\n\nclass Sized(Net):\n    def __init__(self, width):\n        super().__init__()\n"
    Path("net.py").write_text(NET + sized + sized.replace("Sized", "Seeded").replace("width", "seed"))
    said = told("jacobian", "--model", "net.py:Sized", "--seed", "3", expected=2)
    assert said == (
        "depprobe: Sized needs the argument width, which is no seed; a factory takes the seed alone, or "
        "nothing: wrap it, as in lambda seed: Sized(width=...)\n"
    )
    told("jacobian", "--model", "net.py:Seeded", "--n", "8")


@pytest.mark.parametrize("where", ["exits", "Exit"])
def test_a_model_that_ends_the_program_is_told(told, where) -> None:
    more = "\ndef exits(seed):\n    raise SystemExit(0)\n\n"
    more += "class Exit(Net):\n    def forward(self, x):\n        exits(0)\n"
    Path("net.py").write_text(NET + more)
    line = told("jacobian", "--model", f"net.py:{where}", "--n", "9", "-q", expected=1)
    assert line == "depprobe: the code of a model ended the program (SystemExit: 0)\n"
