"""The trained letters-to-phonemes GRU: it spells, and its Jacobian is that of plain autograd."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from trained_models import model

import depprobe
from depprobe.models.trained.g2p import PHONEMES

TEXT = "gradient memory"


@pytest.mark.parametrize(
    ("word", "spelt"),
    [
        ("gradient", "G R EY1 D IY0 AH0 N T"),
        ("memory", "M EH1 M ER0 IY0"),
        ("thought", "TH AO1 T"),
    ],
)
def test_words_are_spelt_as_they_are_spoken(word, spelt):
    found = model("g2p")
    assert " ".join(PHONEMES[i] for i in found().spell(torch.tensor(found.ids(word)))) == spelt


def test_the_gates_of_a_gru_in_another_order_spell_nothing():
    """What the test above would see of weights that are laid out wrongly, which load all the same."""
    found = model("g2p")
    net = found()
    for name in ("weight_ih_l0", "weight_hh_l0"):
        weight = getattr(net.encoder, name).data
        weight.copy_(torch.cat([weight[256:512], weight[:256], weight[512:]]))
    spelt = [PHONEMES[i] for i in net.spell(torch.tensor(found.ids("gradient")))]
    assert spelt != ["G", "R", "EY1", "D", "IY0", "AH0", "N", "T"]


def test_letters_are_the_coordinates_and_words_do_not_mix():
    found = model("g2p")
    ids = torch.tensor(found.ids(TEXT))
    ds = depprobe.jacobian("trained:g2p", ids, targets="all")
    letters = [*"gradient", "</s>", *"memory", "</s>"]
    assert ds.source_token.values.tolist() == ds.target_token.values.tolist() == letters
    assert np.isneginf(ds.log_norm[9:, :9]).all()
    assert ds.log_norm_status[9:, :9].values.tolist() == [[2] * 9] * 7


def test_norms_are_those_of_autograd():
    found = model("g2p")
    net, ids = found(), torch.tensor(found.ids("gradient"))
    ds = depprobe.jacobian(net, ids, targets=[5, 8])
    x = net.letters(ids).detach()[None]
    full = torch.autograd.functional.jacobian(lambda x: net.encoder(x)[0][0], x)[:, :, 0]
    for row, t in zip(ds.log_norm.values, (5, 8), strict=True):
        norms = full[t].transpose(0, 1).flatten(1).norm(dim=1)[: t + 1]
        np.testing.assert_allclose(row[: t + 1], norms.log(), atol=1e-4)


def test_phonemes_lean_on_letters_through_the_end_of_the_word():
    """logits (m, 74) by the end's state alone: J = dlogits/dh_end dh_end/dx."""
    found = model("g2p")
    net, ids = found(), torch.tensor(found.ids("memory"))
    ds = depprobe.jacobian(net, ids, of="logits", position="forecast", targets="all")
    assert ds.sizes["target"] == 6
    fed = [PHONEMES.index("<s>"), *net.spell(ids)]

    def logits(x):
        return net.read(net.decoder(net.phonemes.weight[fed][None], net.encoder(x)[1])[0][0])

    full = torch.autograd.functional.jacobian(logits, net.letters(ids).detach()[None])[:, :, 0]
    norms = full.permute(0, 2, 1, 3).flatten(2).norm(dim=2)
    np.testing.assert_allclose(ds.log_norm, norms.log(), atol=1e-4)
    assert "target_token" not in ds.coords


def test_the_command_reads_words_and_draws_their_letters(run):
    model("g2p")
    Path("words.txt").write_text(TEXT)
    words = ["jacobian", "--model", "trained:g2p", "--input", "words.txt", "--targets", "all", "-q"]
    code, _, err = run(*words, "-o", "out.nc")
    assert (code, err) == (0, "")
    ds = xr.open_dataset("out.nc")
    assert "".join(ds.source_token.values).replace("</s>", " ").strip() == TEXT
    assert ds.attrs["layer"] == "g2p"
    assert math.isfinite(float(ds.log_norm[8, 0]))
