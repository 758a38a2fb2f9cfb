r"""Where Thai words begin: three convolutions side by side over characters, the largest taken.

    z_t = max_j conv_j(E x)_t,    h_t = relu(W_1 z_t + b_1),    logit_t = W_2 h_t + b_2 > 0: a word begins

Taps 3, 5, 9 at dilations 1, 3, 2, so that t sees t - 8 .. t + 8. Shapes: x (n,) ids, z (n, 196), h (n, 32).
Source: Chormai, Prasertsom and Rutherford 2019 (AttaCut), arXiv 1911.07056; the model on characters.
"""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from depprobe.models.checkpoint import ReadsText, load, read_weights

#: (taps, dilation) of the convolutions
_TAPS = ((3, 1), (5, 3), (9, 2))
_UNKNOWN, _PUNCTUATION = "<UNK>", "<PUNC>"


class WordStarts(nn.Module):
    """From ids (b, n): ``last_hidden_state`` (b, n, 32), ``logits`` (b, n, 1) of a word's beginning."""

    def __init__(self, characters: int = 139, d: int = 48, channels: int = 196, hidden: int = 32) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(characters, d)
        self.convs = nn.ModuleList(
            nn.Conv1d(d, channels, taps, dilation=dilation, padding=taps // 2 * dilation)
            for taps, dilation in _TAPS
        )
        self.linear1, self.linear2 = nn.Linear(channels, hidden), nn.Linear(hidden, 1)

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        x = self.embeddings(ids).transpose(1, 2)
        z = torch.stack([conv(x) for conv in self.convs]).amax(0).transpose(1, 2)
        h = torch.relu(self.linear1(z))
        return {"last_hidden_state": h, "logits": self.linear2(h)}


class ThaiWords(ReadsText):
    """A factory of the model; ends of lines are blanks to it."""

    def __init__(self, folder: Path) -> None:
        self.weights = read_weights(folder / "model.pth")
        self.characters: dict[str, int] = json.loads((folder / "characters.json").read_text("utf-8"))
        self._read = {i: character for character, i in self.characters.items()}

    def __call__(self) -> nn.Module:
        own = {name.replace(".conv.", "."): value for name, value in self.weights.items()}
        for i in range(len(_TAPS)):
            own = {name.replace(f"conv{i + 1}.", f"convs.{i}."): value for name, value in own.items()}
        return load(WordStarts(), own, "model.pth")

    def ids(self, text: str) -> list[int]:
        """Ids of the characters; punctuation is one, and what is unknown another."""
        unknown, punctuation = self.characters[_UNKNOWN], self.characters[_PUNCTUATION]
        known = {**self.characters, **dict.fromkeys(string.punctuation, punctuation)}
        return [known.get(character, unknown) for character in text.replace("\n", " ")]

    def words(self, ids: Sequence[int]) -> list[str]:
        return [self._read[i] for i in ids]
