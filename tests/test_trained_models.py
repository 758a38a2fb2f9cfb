"""Trained models behave as they were trained to, and their Jacobians are those of plain autograd."""

import inspect
import itertools
import json

import numpy as np
import pytest
import torch
from scipy.io import wavfile
from torch import nn
from trained_models import RATE, model, spoken

import depprobe
from depprobe.models.trained.catalogue import ENTRIES
from depprobe.models.trained.sound import at_rate, mel_bands, mel_powers

THAI = "ฉันรักภาษาไทยเพราะฉันเป็นคนไทย"
QUESTION = "What is the best way to learn to play the guitar?"


def logits(net: nn.Module, given) -> torch.Tensor:
    with torch.no_grad():
        return net(torch.as_tensor(given)[None])["logits"][0]


def autograd_norms(f, x: torch.Tensor, t: int) -> np.ndarray:
    """ln ||dy_t/dx_k|| over k, one entry of y_t at a time."""
    x = x.detach().requires_grad_()
    y = f(x[None])
    y = y[0] if y.ndim == 3 else y
    rows = [torch.autograd.grad(entry, x, retain_graph=True)[0] for entry in y[t]]
    return torch.stack(rows).norm(dim=(0, 2)).log().numpy()


def agrees(ds, expected: np.ndarray, atol: float = 2e-4) -> None:
    np.testing.assert_allclose(ds.log_norm[0], expected, atol=atol)


# -- words of Thai ---------------------------------------------------------------------------------------


def test_attacut_finds_words():
    found = model("attacut")
    begins = (logits(found(), found.ids(THAI))[:, 0] > 0).tolist()
    starts = [0, *(k for k in range(1, len(THAI)) if begins[k]), len(THAI)]
    words = [THAI[a:b] for a, b in itertools.pairwise(starts)]
    assert words == ["ฉัน", "รัก", "ภาษา", "ไทย", "เพราะ", "ฉัน", "เป็น", "คน", "ไทย"]


def test_attacut_reaches_eight_characters_to_either_side():
    found = model("attacut")
    net, ids = found(), torch.tensor(found.ids(THAI))
    ds = depprobe.jacobian(net, ids, targets=[15])
    taps = [
        step * k for count, step in ((3, 1), (5, 3), (9, 2)) for k in range(-(count // 2), count // 2 + 1)
    ]
    assert set(np.flatnonzero(np.isfinite(ds.log_norm[0])) - 15) == set(taps)

    def forward(x):
        z = torch.stack([conv(x.transpose(1, 2)) for conv in net.convs]).amax(0).transpose(1, 2)
        return torch.relu(net.linear1(z))

    agrees(ds, autograd_norms(forward, net.embeddings(ids), 15))
    named = depprobe.jacobian("trained:attacut", ids, targets=[15])
    assert named.source_token.values.tolist() == list(THAI)


# -- the next character of English -----------------------------------------------------------------------


def nats(found, net: nn.Module, text: str) -> float:
    """Mean of -ln p of each character from those before it."""
    ids = found.ids(text)
    answers = [logits(net, ids[:t]).log_softmax(-1)[ids[t]] for t in range(1, len(ids))]
    return -float(torch.stack(answers).mean())


def test_textgenrnn_foresees_english():
    found = model("textgenrnn")
    net = found()
    assert nats(found, net, QUESTION) < 1
    assert nats(found, net, "xq zjv kkw pqd xzj") > 8


def test_textgenrnn_with_matrices_laid_out_otherwise_foresees_nothing():
    found = model("textgenrnn")
    net = found()
    for name, weight in net.rnn_1.named_parameters():
        if name == "weight_ih_l0":
            gates = [gate.T.reshape(gate.shape) for gate in weight.data.chunk(4)]
            weight.data.copy_(torch.cat(gates))
    assert nats(found, net, QUESTION) > 2


def test_textgenrnn_reads_forty_characters():
    found = model("textgenrnn")
    net, ids = found(), torch.tensor(found.ids(QUESTION))
    ds = depprobe.jacobian(net, ids)
    assert np.isneginf(ds.log_norm[0, :-40]).all()

    def forward(x):
        a, _ = net.rnn_1(x)
        b, _ = net.rnn_2(a)
        z = torch.cat([x, a, b], -1)
        return (torch.softmax(z @ net.attention, -1)[..., None] * z).sum(1)

    agrees(ds[{"source": slice(-40, None)}], autograd_norms(forward, net.embedding(ids[-40:]), 0))


# -- sound -----------------------------------------------------------------------------------------------


def test_silero_hears_speech_and_no_other_sound():
    found = model("silero-vad")
    net, t = found(), np.arange(2 * RATE)[:, None] / RATE
    noise = 0.1 * np.random.default_rng(0).standard_normal(t.shape)

    def probability(sound):
        blocks = found.frames(sound, RATE).astype(np.float32)
        return float(torch.sigmoid(logits(net, blocks))[10:].mean())

    assert probability(spoken()) > 0.9
    for other in (noise, 0.3 * np.sin(2 * np.pi * 440 * t), 0 * t):
        assert probability(other) < 0.1


def test_blocks_of_silero_end_in_their_mirror_image():
    """Values of a network that agrees within 2e-6 with its authors' own, given the weights of that one."""
    found = model("silero-vad")
    blocks = found.frames(spoken(), RATE).astype(np.float32)
    probability = torch.sigmoid(logits(found(), blocks))[:6, 0]
    np.testing.assert_allclose(probability, [0.3744, 0.8164, 0.7087, 0.7371, 0.6516, 0.7468], atol=1e-3)


def test_norms_of_silero_are_those_of_autograd():
    found = model("silero-vad")
    net, x = found(), torch.tensor(found.frames(spoken("aie"), RATE)).float()
    ds = depprobe.jacobian(net, x, targets=[9])
    with np.errstate(divide="ignore"):
        agrees(ds, autograd_norms(lambda x: net(x)["last_hidden_state"], x, 9))


def test_a_file_of_sound_becomes_blocks(run):
    found = model("silero-vad")
    sound = spoken("aie")
    wavfile.write("twice.wav", 2 * RATE, (np.repeat(sound, 2, 0) * 2**15).astype(np.int16))
    code, out, err = run(
        "jacobian", "--model", "trained:silero-vad", "--input", "twice.wav", "-q", "-o", "out.nc"
    )
    assert (code, err) == (0, ""), out
    ds = depprobe.load("out.nc")
    assert ds.sizes["source"] == len(sound) // 512
    exact = depprobe.jacobian(found(), torch.tensor(found.frames(sound, RATE)).float())
    np.testing.assert_allclose(ds.log_norm, exact.log_norm, atol=0.5)


def test_noise_is_as_wide_as_a_block(run):
    model("silero-vad")
    code, _, _ = run("jacobian", "--model", "trained:silero-vad", "--n", "4", "-q", "-o", "out.nc")
    assert (code, depprobe.load("out.nc").sizes["source"]) == (0, 4)


def test_mel_bands_are_those_of_transformers():
    audio = pytest.importorskip("transformers.audio_utils")
    theirs = audio.mel_filter_bank(201, 40, 0.0, 8000.0, RATE, norm="slaney", mel_scale="slaney")
    np.testing.assert_allclose(mel_bands(40, 400), theirs.T, atol=1e-9)
    sound = spoken("a")[:, 0]
    window = np.hanning(401)[:-1]
    their = audio.spectrogram(sound, window, 400, 160, power=2.0, mel_filters=theirs, pad_mode="constant")
    np.testing.assert_allclose(mel_powers(sound), their.T, rtol=1e-4, atol=1e-8)


def test_sound_at_another_rate_is_resampled():
    t = np.arange(2 * RATE)[:, None] / (2 * RATE)
    sound = np.sin(2 * np.pi * 200 * t)
    np.testing.assert_allclose(at_rate(sound, 2 * RATE, RATE)[500:-500], sound[::2, 0][500:-500], atol=1e-3)


def test_resemblyzer_tells_voices_apart():
    found = model("resemblyzer")
    net = found()

    def voice(*arguments):
        x = torch.tensor(found.frames(spoken(*arguments), RATE)).float()
        with torch.no_grad():
            return net(x[None])[0, -1]

    low, again = voice("aieouaieou", 110), voice("uaoieuaoie", 110, 1.0, 2)
    high = voice("aieouaieou", 220, 1.17)
    assert low @ again > 0.9
    assert low @ high < 0.75


def test_norms_of_resemblyzer_are_those_of_autograd():
    found = model("resemblyzer")
    net, x = found(), torch.tensor(found.frames(spoken("a"), RATE)).float()
    with np.errstate(divide="ignore"):
        agrees(depprobe.jacobian(net, x, targets=[12]), autograd_norms(net, x, 12))


# -- text and code ---------------------------------------------------------------------------------------


def test_typeseg_names_languages():
    from depprobe.models.trained.typeseg import LANGUAGES

    found = model("typeseg")
    net = found()
    texts = {
        "html": "<html><body><p>Hello</p></body></html>\n" * 4,
        "sql": "SELECT name, age FROM users WHERE age > 30 ORDER BY name;\n" * 4,
        "python": inspect.getsource(json.dumps)[-900:],
    }
    for language, text in texts.items():
        named = logits(net, found.ids(text)).argmax(-1)
        assert (named == LANGUAGES.index(language)).float().mean() > 0.9, language


def test_norms_of_typeseg_are_those_of_autograd():
    found = model("typeseg")
    net, ids = found(), torch.tensor(found.ids("x = [1, 2]\n"))

    def forward(x):
        for block in net.blocks:
            x = block(x)
        return net.norm(x)

    agrees(depprobe.jacobian(net, ids, targets=[4]), autograd_norms(forward, net.embedding(ids), 4))


def test_minilm_knows_what_sentences_mean():
    found = model("minilm")
    net = found()

    def direction(text):
        with torch.no_grad():
            mean = net(input_ids=torch.tensor([found.ids(text)])).last_hidden_state[0].mean(0)
        return mean / mean.norm()

    eats = direction("A man is eating food.")
    assert eats @ direction("A man is eating a piece of bread.") > 0.7
    assert eats @ direction("The girl is carrying a baby.") < 0.2


def test_norms_of_minilm_are_those_of_autograd():
    found = model("minilm")
    net, ids = found(), torch.tensor(found.ids("A man is eating food."))
    ds = depprobe.jacobian("trained:minilm", ids, targets=[3])
    assert ds.source_token.values.tolist() == ["[CLS]", "a", "man", "is", "eating", "food", ".", "[SEP]"]
    x = net.get_input_embeddings()(ids)
    agrees(ds, autograd_norms(lambda x: net(inputs_embeds=x).last_hidden_state, x, 3))


@pytest.mark.parametrize("name", ENTRIES)
def test_every_model_is_measured_by_its_name(name):
    found = model(name)
    if hasattr(found, "ids"):
        given = torch.tensor(found.ids("a few words"))
    else:
        given = torch.tensor(found.frames(spoken("ai"), RATE)).float()[:8]
    ds = depprobe.jacobian(f"trained:{name}", given, method="probes", targets="last", probes=2)
    assert bool(np.isfinite(ds.log_norm[0, -1]))
    assert ds.attrs["layer"] == name
