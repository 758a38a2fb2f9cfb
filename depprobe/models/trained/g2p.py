r"""From letters to phonemes: a GRU reads a word, another spells it out.

    h_k = GRU(E x_k, h_{k-1}),  k over the letters of a word and its end;  h = 0 before every word
    s_0 = h of the end,   s_t = GRU(D y_t, s_{t-1}),   logits_t = W s_t + b,   y_{t+1} = argmax logits_t

Shapes: x (n,) ids, h (n, 256); y (m,) phonemes, s (m, 256), logits (m, 74). The phonemes fed back are those
that the model itself chooses at its input, held fixed in derivatives.
Source: Park and Kim 2019, g2p_en; GRU: Cho et al. 2014. Phonemes: ARPAbet, vowels by their stress.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from depprobe.models.checkpoint import ReadsText, load, read_weights

PAD, UNKNOWN, END = "<pad>", "<unk>", "</s>"
LETTERS = (PAD, UNKNOWN, END, *"abcdefghijklmnopqrstuvwxyz")
_VOWELS = ("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW")
_CONSONANTS = {"UW", "CH", "DH", "HH", "JH", "NG", "SH", "TH", "ZH", *"BDFGKLMNPRSTVWYZ"}
PHONEMES = (
    *(PAD, UNKNOWN, "<s>", END),
    *sorted({vowel + stress for vowel in _VOWELS for stress in "012"} | _CONSONANTS),
)
#: most phonemes of a word
_LONGEST = 20
#: name in the file -> name in the module
_NAMES = {"enc_emb": "letters.weight", "dec_emb": "phonemes.weight"}
_NAMES |= {"fc_w": "read.weight", "fc_b": "read.bias"}
_NAMES |= {
    f"{part[:3]}_{kind[0]}_{end}": f"{part}.{kind}_{end}_l0"
    for part in ("encoder", "decoder")
    for kind in ("weight", "bias")
    for end in ("ih", "hh")
}


class PhonemesOfLetters(nn.Module):
    """From ids (b, n): ``last_hidden_state`` (b, n, 256) and phonemes' ``logits`` (b, m, 74)."""

    def __init__(self, d: int = 256) -> None:
        super().__init__()
        self.letters = nn.Embedding(len(LETTERS), d)
        self.encoder = nn.GRU(d, d, batch_first=True)
        self.phonemes = nn.Embedding(len(PHONEMES), d)
        self.decoder = nn.GRU(d, d, batch_first=True)
        self.read = nn.Linear(d, len(PHONEMES))

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        x = self.letters(ids)
        read, spelt = zip(*(self._row(ids[i], x[i]) for i in range(len(ids))), strict=True)
        return {"last_hidden_state": torch.stack(read), "logits": torch.stack(spelt)}

    def _row(self, ids: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        ends = (ids == LETTERS.index(END)).nonzero()[:, 0].tolist()
        starts = [0, *(end + 1 for end in ends)]
        read, spelt = [], []
        for start, stop in zip(starts, [*starts[1:], len(ids)], strict=True):
            if start < stop:
                h, last = self.encoder(x[None, start:stop])
                chosen = torch.tensor(
                    [[PHONEMES.index("<s>"), *self.spell(ids[start:stop])]], device=x.device
                )
                s, _ = self.decoder(self.phonemes(chosen[:, :_LONGEST]), last)
                read.append(h[0])
                spelt.append(self.read(s[0]))
        return torch.cat(read), torch.cat(spelt)

    @torch.no_grad()
    def spell(self, ids: Tensor) -> list[int]:
        """The phonemes that the model chooses for one word, greedily."""
        # the weights themselves: calls of the embeddings are for what is differentiated
        _, h = self.encoder(self.letters.weight[ids][None])
        chosen = [PHONEMES.index("<s>")]
        for _ in range(_LONGEST):
            s, h = self.decoder(self.phonemes.weight[chosen[-1]][None, None], h)
            chosen.append(int(self.read(s[0, 0]).argmax()))
            if PHONEMES[chosen[-1]] == END:
                break
        return [i for i in chosen[1:] if PHONEMES[i] != END]


def letters_of(text: str) -> list[int]:
    """Ids of the letters, with the end of every word.

    Examples
    --------
    >>> [LETTERS[i] for i in letters_of("A cat")]
    ['a', '</s>', 'c', 'a', 't', '</s>']
    """
    known = {letter: i for i, letter in enumerate(LETTERS)}
    return [
        i
        for word in text.lower().split()
        for i in (*(known.get(letter, known[UNKNOWN]) for letter in word), known[END])
    ]


class LettersToPhonemes(ReadsText):
    """A factory of the model; words of a text are read one after another, each to its end."""

    def __init__(self, folder: Path) -> None:
        weights = read_weights(folder / "checkpoint20.npz")
        self.weights = {_NAMES.get(name, name): value for name, value in weights.items()}

    def __call__(self) -> nn.Module:
        return load(PhonemesOfLetters(), self.weights, "checkpoint20.npz")

    def ids(self, text: str) -> list[int]:
        """Ids of the letters, with the end of every word."""
        return letters_of(text)

    def words(self, ids: Sequence[int]) -> list[str]:
        return [LETTERS[i] for i in ids]
