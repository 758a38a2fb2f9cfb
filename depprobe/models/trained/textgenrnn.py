r"""The next character of English: two LSTMs over the last 40 characters, and attention over what both read.

    a_k = LSTM(E x_k, a_{k-1}),   b_k = LSTM(a_k, b_{k-1}),   z_k = [E x_k, a_k, b_k],   k = n - 40 .. n - 1
    h = sum_k softmax_k(w . z_k) z_k,    logits = W h + b

One answer for a window of 40 characters, read from the zero state, shorter texts after the padding's id: so
the model was trained, and a state that runs on predicts far worse (2 nats a character instead of 0.8).
Shapes: x (n,) ids, a, b (40, 128), z (40, 356), h (356,), logits (465,).
The file has cuDNN's layout: gates i, f, g, o as torch has them, each a matrix written row by row, under the
transposed shape for the input's. Source: textgenrnn (Woolf 2018); trained on posts of a forum.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from depprobe.errors import BadInput
from depprobe.models.checkpoint import ReadsText, load

_WEIGHTS, _VOCABULARY = "textgenrnn_weights.hdf5", "textgenrnn_vocab.json"
#: characters that an answer is made from
WINDOW = 40
#: what stands before and after every text
START = "<s>"


class NextCharacter(nn.Module):
    """From ids (b, n): ``last_hidden_state`` h (b, 356), ``logits`` (b, 465) of the next character."""

    def __init__(self, characters: int = 465, d: int = 100, width: int = 128) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, d)
        self.rnn_1 = nn.LSTM(d, width, batch_first=True)
        self.rnn_2 = nn.LSTM(width, width, batch_first=True)
        self.attention = nn.Parameter(torch.zeros(d + 2 * width))
        self.output = nn.Linear(d + 2 * width, characters)

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        x = self.embedding(ids)[:, -WINDOW:]
        before = self.embedding.weight[0].expand(len(ids), WINDOW - x.shape[1], -1)
        x = torch.cat([before, x], 1)
        a, _ = self.rnn_1(x)
        b, _ = self.rnn_2(a)
        z = torch.cat([x, a, b], -1)
        h = (torch.softmax(z @ self.attention, -1)[..., None] * z).sum(1)
        return {"last_hidden_state": h, "logits": self.output(h)}


class Characters(ReadsText):
    """A factory of the model; characters that it does not know are left out of a text."""

    def __init__(self, folder: Path) -> None:
        self.characters: dict[str, int] = json.loads((folder / _VOCABULARY).read_text("utf-8"))
        self._read = {i: character for character, i in self.characters.items()} | {0: "<pad>"}
        self.weights = _weights(folder / _WEIGHTS)

    def __call__(self) -> nn.Module:
        return load(NextCharacter(), self.weights, _WEIGHTS)

    def ids(self, text: str) -> list[int]:
        """Ids of the characters, after the id of a beginning."""
        known = (self.characters.get(character) for character in text)
        return [self.characters[START], *(i for i in known if i is not None)]

    def words(self, ids: Sequence[int]) -> list[str]:
        return [self._read[i] for i in ids]


def _weights(path: Path) -> dict[str, Tensor]:
    """The weights by the module's names."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            read = {part: _read(file, part) for part in ("embedding", "attention", "output")}
            weights = {"embedding.weight": read["embedding"]["embeddings:0"]}
            weights["attention"] = read["attention"]["attention_W:0"][:, 0]
            weights["output.weight"] = read["output"]["kernel:0"].T
            weights["output.bias"] = read["output"]["bias:0"]
            for name in ("rnn_1", "rnn_2"):
                weights |= {f"{name}.{key}_l0": value for key, value in _recurrent(_read(file, name)).items()}
    except (OSError, KeyError, ValueError) as error:
        raise BadInput(f"cannot read the weights in {str(path)!r}: {error}") from error
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in weights.items()}


def _read(file: Any, part: str) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in file[part][part].items()}


def _recurrent(read: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights of torch's LSTM from kernel (d_in, 4 d), recurrent_kernel (d, 4 d), bias (8 d,)."""
    inputs, recurrent = (np.split(read[f"{name}:0"], 4, axis=1) for name in ("kernel", "recurrent_kernel"))
    of_input, of_state = np.split(read["bias:0"], 2)
    return {
        "weight_ih": np.concatenate([gate.reshape(gate.shape[::-1]) for gate in inputs]),
        "weight_hh": np.concatenate(recurrent),
        "bias_ih": of_input,
        "bias_hh": of_state,
    }
