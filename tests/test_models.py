"""What users bring: their own code by where it stands, and weights from files."""

import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import depprobe
from depprobe.errors import BadInput
from depprobe.models import checkpoint, transformers_folder, user_code

NET = """
import torch
from torch import nn
from neighbour import WIDTH

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(3, WIDTH, batch_first=True)
        self.read = nn.Linear(WIDTH, 2)

    def forward(self, x):
        return self.read(self.rnn(x)[0])

def make(seed):
    from late import offset
    torch.manual_seed(seed + offset)
    return Net()

built = Net()
number = 3
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "neighbour.py").write_text("WIDTH = 5")
    (tmp_path / "late.py").write_text("offset = 7")
    yield tmp_path
    for name in ("neighbour", "late"):
        sys.modules.pop(name, None)


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.ModuleDict({"rnn": nn.GRU(3, 5, batch_first=True), "read": nn.Linear(5, 2)})


def test_a_factory_is_found_in_a_file_with_its_neighbours(folder: Path) -> None:
    before = list(sys.path)
    make = user_code.find(f"{folder}/net.py:make")
    first, again, other = make(1), make(1), make(2)
    assert torch.equal(first.read.weight, again.read.weight)
    assert not torch.equal(first.read.weight, other.read.weight)
    torch.manual_seed(8)
    assert torch.equal(first.rnn.weight_ih_l0, nn.GRU(3, 5).weight_ih_l0)
    assert sys.path == before


def test_classes_and_built_modules_are_found(folder: Path) -> None:
    assert isinstance(user_code.find(f"{folder}/net.py:Net")(), nn.Module)
    assert isinstance(user_code.find(f"{folder}/net.py:built"), nn.Module)
    assert isinstance(user_code.find("torch.nn.modules:Identity")(), nn.Identity)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("net.py", "named FILE.py:FACTORY or package.module:FACTORY, not"),
        ("{}/nte.py:make", "did you mean 'net.py'"),
        ("{}/net.py:mak", "did you mean 'make'"),
        ("{}/net.py:number", "is int; it must be an nn.Module"),
        ("no_such_package:make", "could not be run: ModuleNotFoundError"),
        ("a-b:make", "neither a .py file nor a module"),
        ("{}/broken.py:make", "broken.py, line 2 could not be run: ZeroDivisionError: division by zero"),
        ("{}/syntax.py:make", "line 1 could not be run: SyntaxError"),
        ("{}/leaves.py:make", "could not be run: SystemExit: 4"),
        ("{}/nowhere/net.py:make", "no such file"),
    ],
)
def test_code_that_cannot_be_used_is_told_in_one_line(folder: Path, text: str, said: str) -> None:
    (folder / "broken.py").write_text("x = 1\n1 / 0\n")
    (folder / "syntax.py").write_text("def make(:\n")
    (folder / "leaves.py").write_text("raise SystemExit(4)\n")
    with pytest.raises(BadInput) as caught:
        user_code.find(text.format(folder))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def saved(folder: Path, suffix: str, weights: dict) -> Path:
    path = folder / f"net{suffix}"
    if suffix == ".npz":
        np.savez(path, **{name: value.numpy() for name, value in weights.items()})
    elif suffix == ".safetensors":
        safetensors = pytest.importorskip("safetensors.torch")
        safetensors.save_file(weights, path)
    else:
        torch.save(weights, path)
    return path


@pytest.mark.parametrize("suffix", checkpoint.SUFFIXES)
def test_weights_come_back_bit_for_bit(tmp_path: Path, suffix: str) -> None:
    original = network()
    found = checkpoint.read_weights(saved(tmp_path, suffix, original.state_dict()))
    fresh = nn.ModuleDict({"rnn": nn.GRU(3, 5, batch_first=True), "read": nn.Linear(5, 2)})
    checkpoint.load(fresh, found, "net")
    assert not fresh.training
    for name, value in original.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value)


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state", "model_state_dict"])
def test_wrapped_checkpoints_of_training_loops_are_seen_through(tmp_path: Path, key: str) -> None:
    own = network().state_dict()
    weights = {f"module.{name}": value for name, value in own.items()}
    beside = {"epoch": 3, "optimizer": {"state": {}}, "loss": torch.tensor(0.5)}
    torch.save({key: weights, **beside}, tmp_path / "last.pt")
    fresh = checkpoint.load(network(), checkpoint.read_weights(tmp_path / "last.pt"), "last.pt")
    assert torch.equal(fresh.state_dict()["read.weight"], own["read.weight"])


def test_weights_that_are_there_twice_are_not_chosen_between(tmp_path: Path) -> None:
    first, averaged = network().state_dict(), network().state_dict()
    torch.save({"model": first, "ema": averaged, "step": 3}, tmp_path / "last.pt")
    with pytest.raises(
        BadInput, match=r"'.*last\.pt' holds the same weights under 'model' and 'ema', averaged"
    ):
        checkpoint.read_weights(tmp_path / "last.pt")
    torch.save({"model": first, "optimizer": {"state": {}}, "config": {}}, tmp_path / "last.pt")
    assert checkpoint.read_weights(tmp_path / "last.pt").keys() == first.keys()


def test_weights_among_those_of_other_modules_are_told_by_what_their_names_begin_with() -> None:
    own = network().state_dict()
    weights = {f"net.student.{name}": value for name, value in own.items()}
    with pytest.raises(
        BadInput, match=r"missing .*; those that begin with 'net.student.' fit without it: save them alone$"
    ):
        checkpoint.load(network(), weights | {"loss.weight": torch.ones(2)}, "last.ckpt")
    twice = weights | {f"teacher.{name}": value for name, value in own.items()}
    with pytest.raises(BadInput, match=r"begin with 'net.student.' or 'teacher.' fit without it"):
        checkpoint.load(network(), twice, "last.ckpt")
    del twice["net.student.read.bias"], twice["teacher.read.bias"]
    with pytest.raises(BadInput) as caught:
        checkpoint.load(network(), twice, "last.ckpt")
    assert "begin with" not in str(caught.value)


def spread(folder: Path, **changed: object) -> Path:
    """The weights of the network in two files, and their index with what is ``changed`` in it."""
    from safetensors.torch import save_file

    weights, placed = network().state_dict(), {}
    for i, names in enumerate((list(weights)[::2], list(weights)[1::2]), 1):
        file = f"model-0000{i}-of-00002.safetensors"
        save_file({name: weights[name].contiguous() for name in names}, folder / file)
        placed |= dict.fromkeys(names, file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": placed | changed}))
    return index


def test_weights_in_several_files_are_read_by_their_index(tmp_path: Path) -> None:
    found = checkpoint.read_weights(spread(tmp_path))
    assert found.keys() == network().state_dict().keys()
    loaded = checkpoint.Checkpoint(network, spread(tmp_path))()
    assert all(torch.equal(value, found[name]) for name, value in loaded.state_dict().items())
    weights = dict(list(network().state_dict().items())[:1])
    with pytest.raises(BadInput, match=r"missing .*; it is one of several files of weights: give the index"):
        checkpoint.load(network(), weights, "model-00001-of-00002.safetensors")


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        (
            {"x": "../other.safetensors"},
            "places 'x' in '../other.safetensors', which is no file of weights b",
        ),
        ({"x": "/etc/passwd"}, "places 'x' in '/etc/passwd', which is no file of weights beside it"),
        ({"x": "..\\\\x.safetensors"}, "which is no file of weights beside it"),
        ({"x": "model.py"}, "places 'x' in 'model.py', which is no file of weights beside it"),
        ({"x": "model-3.safetensors"}, "needs 'model-3.safetensors' beside it, which is not there"),
        ({"x": "model-00001-of-00002.safetensors"}, "does not hold what .* places in it: it lacks x$"),
        ({"x": 3}, "is no index of weights: it has no weight_map of names and files"),
    ],
)
def test_an_index_that_leads_astray_is_refused(tmp_path: Path, changed: dict, match: str) -> None:
    (tmp_path / "model.py").write_text("")
    (tmp_path.parent / "other.safetensors").write_text("")
    with pytest.raises(BadInput, match=match):
        checkpoint.read_weights(spread(tmp_path, **changed))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b'{"weight_map": {}}', "is no index of weights: it has no weight_map of names and files"),
        (b'{"weight_map": []}', "is no index of weights: it has no weight_map of names and files"),
        (b'{"metadata": {}}', "is no index of weights: it has no weight_map of names and files"),
        (b"[]", "it holds list, not an object of names and values$"),
        (b"", "it is not JSON: Expecting value at line 1, column 1, where the file ends$"),
        (
            b'{"weight_map":\n {"a": ',
            "not JSON: Expecting value at line 2, column 8, where the file ends$",
        ),
        (b'{"weight_map": {"a" "b"}}', "it is not JSON: Expecting ':' delimiter at line 1, column 21$"),
        (b'{"weight_map": {"\xff": "b"}}', "it is not JSON: byte 17 is no utf-8 text$"),
        (b"[" * 100_000, "it is nested too deep$"),
    ],
)
def test_what_is_no_index_of_weights_is_refused(tmp_path: Path, content: bytes, match: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_bytes(content)
    with pytest.raises(BadInput, match=f"model.safetensors.index.json'.*{match}"):
        checkpoint.read_weights(index)


def test_a_sweep_sees_what_the_files_of_an_index_hold(tmp_path: Path, monkeypatch) -> None:
    from depprobe.cli.commands.sweep.cells import plan_of
    from depprobe.cli.commands.sweep.grid import grid_of

    monkeypatch.chdir(tmp_path)
    spread(tmp_path)
    model = {"model": "net.py:make", "weights": "model.safetensors.index.json"}
    plans = [plan_of(grid_of({"grid": {"model": [model]}})).cells[0].mark for _ in range(2)]
    with open("model-00002-of-00002.safetensors", "ab") as file:
        file.write(b"x")
    changed = plan_of(grid_of({"grid": {"model": [model]}})).cells[0].mark
    assert plans[0] == plans[1] != changed


def test_a_checkpoint_keeps_its_dtype() -> None:
    weights = {name: value.bfloat16() for name, value in network().state_dict().items()}
    assert checkpoint.load(network(), weights, "net").read.weight.dtype is torch.bfloat16


def test_tied_weights_may_be_stored_once() -> None:
    net = nn.ModuleDict({"a": nn.Linear(3, 3, bias=False), "b": nn.Linear(3, 3, bias=False)})
    net["b"].weight = net["a"].weight
    checkpoint.load(net, {"a.weight": torch.eye(3)}, "net")
    assert torch.equal(net["b"].weight, torch.eye(3))


def test_what_does_not_fit_is_listed() -> None:
    weights = network().state_dict()
    weights["read.weight"] = torch.zeros(2, 6)
    weights["extra"] = weights.pop("read.bias")
    before = {name: value.clone() for name, value in network().state_dict().items()}
    net = network()
    with pytest.raises(BadInput) as caught:
        checkpoint.load(net, weights, "net.pt")
    said = str(caught.value)
    assert "net.pt does not fit ModuleDict: missing read.bias; not in the module extra" in said
    assert "read.weight is (2, 6) in the file and (2, 5) in the module" in said
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())


class Armed:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path(sys.prefix) / "never",))


def test_nothing_that_needs_code_is_read(tmp_path: Path) -> None:
    torch.save(network(), tmp_path / "module.pt")
    torch.save({"w": Armed()}, tmp_path / "armed.pt")
    np.savez(tmp_path / "objects.npz", w=np.array([Armed()], dtype=object))
    (tmp_path / "strange.pt").write_bytes(pickle.dumps({"w": {1, 2}}, protocol=4))
    for name, said in (
        ("module.pt", r"runs torch\.nn\.modules\.container\.ModuleDict when it is unpickled"),
        ("armed.pt", r"runs \S*\.?Path\.touch|runs \S*getattr when"),
        ("strange.pt", "is damaged, or holds more than weights"),
        ("objects.npz", "pickle"),
    ):
        with pytest.raises(BadInput, match=said) as caught:
            checkpoint.read_weights(tmp_path / name)
        message = str(caught.value)
        assert message.isprintable()
        assert "weights_only" not in message
    assert not (Path(sys.prefix) / "never").exists()


@pytest.mark.parametrize("suffix", checkpoint.SUFFIXES)
def test_damaged_files_are_told_in_one_line(tmp_path: Path, suffix: str) -> None:
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    path = saved(tmp_path, suffix, network().state_dict())
    whole = path.read_bytes()
    for damaged in (b"", whole[:20], whole[: len(whole) // 2], b"\x00" * 200, b"not weights\n"):
        path.write_bytes(damaged)
        with pytest.raises(BadInput) as caught:
            checkpoint.read_weights(path)
        assert "\n" not in str(caught.value)
        if suffix in (".pt", ".pth"):
            assert "is damaged, or holds more than weights" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("net.h5", "read from .safetensors, .pt, .pth, .ckpt, .bin, .npz"),
        ("gone.pt", "no such file of weights"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        checkpoint.read_weights(tmp_path / name)


def test_a_tensor_or_a_list_is_no_checkpoint(tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    torch.save({"weight": torch.zeros(3), "note": "text"}, tmp_path / "mixed.pt")
    torch.save({}, tmp_path / "empty.pt")
    for name, said in (
        ("tensor", "not weights by name"),
        ("mixed", "'note', which is str"),
        ("empty", "no weights"),
    ):
        with pytest.raises(BadInput, match=said):
            checkpoint.read_weights(tmp_path / f"{name}.pt")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small Llama in bfloat16 and a tokenizer of bytes, as transformers saves them."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("llama")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.LlamaConfig(vocab_size=256, num_key_value_heads=1, **sizes)
    transformers.LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
    return folder


def test_a_folder_gives_its_model_in_its_own_dtype(llama: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import load_file

    found = transformers_folder.PretrainedFolder(llama)
    model = found()
    assert type(model).__name__ == "LlamaForCausalLM"
    assert not model.training
    stored = load_file(llama / "model.safetensors")
    for name, value in stored.items():
        assert model.state_dict()[name].dtype is torch.bfloat16
        assert torch.equal(model.state_dict()[name], value)
    assert capsys.readouterr().err == ""


def test_text_goes_through_the_folders_tokenizer(llama: Path) -> None:
    folder = transformers_folder.PretrainedFolder(llama)
    ids = folder.ids("abc xyz")
    assert "".join(folder.words(ids)) == "abc xyz"
    assert len(set(ids)) == 7


def copied(llama: Path, folder: Path, *without: str) -> Path:
    for path in llama.iterdir():
        if path.name not in without:
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_a_folder_never_runs_code_of_its_own(llama: Path, tmp_path: Path) -> None:
    folder = copied(llama, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config |= {"architectures": ["Mine"], "model_type": "mine", "auto_map": {"AutoModel": "mine.Mine"}}
    config["auto_map"]["AutoConfig"] = "mine.MineConfig"
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(BadInput, match="transformers cannot read") as caught:
        transformers_folder.PretrainedFolder(folder)()
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_incomplete_folders_are_told_in_one_line(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such folder"):
        transformers_folder.PretrainedFolder(tmp_path / "gone")
    with pytest.raises(BadInput, match=r"no config\.json"):
        transformers_folder.PretrainedFolder(tmp_path)
    folder = copied(llama, tmp_path, "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    with pytest.raises(BadInput, match="holds no tokenizer"):
        transformers_folder.PretrainedFolder(folder).ids("abc")
    with pytest.raises(BadInput, match="transformers cannot read") as caught:
        transformers_folder.PretrainedFolder(folder)()
    assert "\n" not in str(caught.value)
    (folder / "config.json").write_text("{")
    with pytest.raises(BadInput, match=r"cannot read .*config.json': it is not JSON: .* line 1, column 2"):
        transformers_folder.PretrainedFolder(folder)()


@pytest.mark.parametrize("text", ["Grüße, 你好", "naïve 🙂."])
def test_characters_of_several_bytes_stand_at_their_first_byte(text: str) -> None:
    from depprobe.runs.inputs import Source

    def make() -> nn.Module:
        return nn.Sequential(nn.Embedding(256, 4), nn.GRU(4, 3, batch_first=True))

    data = text.encode()
    ds = depprobe.jacobian(make, Source("text", text=data), n=len(data), targets="all")
    words = ds.source_token.values.tolist()
    assert "".join(words) == text
    starts = np.cumsum([0, *(len(letter.encode()) for letter in text[:-1])])
    assert [words[at] for at in starts] == list(text)
    cut = depprobe.jacobian(make, Source("text", text="é".encode() * 2), n=3)
    assert cut.source_token.values.tolist() == ["é", "", "C3"]
    shown = depprobe.figures.heatmap(ds).axes[0].get_xticklabels()
    assert "".join(tick.get_text() for tick in shown) == text.replace(" ", "␣")


def test_tokens_are_coordinates_and_ticks(llama: Path, tmp_path: Path) -> None:
    from depprobe.runs.inputs import Source

    text = Source("text", text=b"to be or not")
    ds = depprobe.jacobian(
        transformers_folder.PretrainedFolder(llama), text, n=9, dtype="float32", targets=[3, 8]
    )
    assert "".join(ds.source_token.values) == "to be or "
    assert ds.target_token.values.tolist() == ["b", " "]
    assert depprobe.load(depprobe.save(ds, tmp_path / "tokens.nc")).source_token.values.tolist() == list(
        "to be or "
    )
    panel = depprobe.figures.heatmap(ds).axes[0]
    assert [tick.get_text() for tick in panel.get_xticklabels()] == list("to␣be␣or␣")
    assert [tick.get_text() for tick in panel.get_yticklabels()] == ["b", "␣"]


def test_bytes_and_tokens_get_a_panel_each(llama: Path) -> None:
    from depprobe.runs.inputs import Source

    text = Source("text", text=b"to be or not")
    both = {"Llama": transformers_folder.PretrainedFolder(llama), "LSTM": "lstm"}
    ds = depprobe.jacobian(both, text, n=9, d=4, dtype="float32")
    assert ds["symbol"].values.tolist() == ["token", "byte"]
    assert [ax.get_xlabel() for ax in depprobe.figures.decay(ds).axes] == [
        "lag $t - k$ (tokens)",
        "lag $t - k$ (bytes)",
    ]
    assert depprobe.jacobian("lstm", text, n=9, d=4).attrs["symbol"] == "byte"
    assert "symbol" not in depprobe.jacobian("lstm", n=9, d=4).attrs


def test_a_tokenizers_output_brings_its_tokens(llama: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(llama)
    model = transformers_folder.PretrainedFolder(llama)().float()
    ds = depprobe.jacobian(model, tokenizer("abcde", return_tensors="pt"))
    assert ds.source_token.values.tolist() == list("abcde")


def test_labels_of_a_causal_language_model_are_its_ids_where_none_are_given(llama: Path) -> None:
    model = transformers_folder.PretrainedFolder(llama)().float()
    ids = torch.tensor([[0, 0, 7, 3, 200, 41, 3, 9]])
    mask = ids.ne(0)
    embedded = model.get_input_embeddings()(ids[0, 2:]).detach().requires_grad_()
    scores = model(inputs_embeds=embedded[None], use_cache=False).logits[0, :-1].log_softmax(-1)
    truth = torch.autograd.grad(-scores[torch.arange(5), ids[0, 3:]].mean(), embedded)[0]
    for x in (ids[0, 2:], {"input_ids": ids, "attention_mask": mask}):  # the second is padded on the left
        found = depprobe.temporal_jacobian(model, x, of="loss").row(0).dense()[0, -6:]
        torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-9)
    with pytest.raises(BadInput, match="give its labels in forward"):
        depprobe.temporal_jacobian(torch.nn.LSTM(3, 4, batch_first=True), torch.zeros(5, 3), of="loss")
