"""Trained models and their untrained twins: what each reads here, and the recurrences inside.

Text is that of Python's own documentation (``pydoc_data.topics``), Thai a few sentences written for this,
sound vowels that are synthesised, since no recording comes with Python. A twin has the shapes of the model
and weights as its layers draw them by default, Mamba's after Gu and Dao 2023, BERT's after its configuration.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pydoc_data.topics import topics
from typing import Any

import torch
from _spoken_vowels import RATE, spoken
from torch import Tensor, nn

import depprobe
from depprobe.models.trained.catalogue import ENTRIES
from depprobe.models.trained.g2p import PhonemesOfLetters, letters_of
from depprobe.models.trained.typeseg import Block

WEIGHTS = ("trained", "untrained")
ENGLISH = " ".join(" ".join(topics[name] for name in ("assert", "booleans", "class", "exceptions")).split())
THAI = (
    "ฉันรักภาษาไทยเพราะฉันเป็นคนไทย วันนี้อากาศดีมาก เราจะไปตลาดซื้อผลไม้และดอกไม้ "
    "พรุ่งนี้ฝนอาจจะตกหนัก แม่ทำอาหารอร่อยทุกวัน น้องชายชอบอ่านหนังสือในสวน"
)
SPEECH = "aieouaieouuoieaoiueaaieouaieou"


@dataclass(frozen=True)
class Case:
    """One model: an input for its Jacobian, how to measure it, and what its recurrences read.

    ``given`` and ``running`` take the factory and whether it is the quick version; ``on`` gives the part of
    the network that is measured and its input, ``ranked`` the targets of effective ranks.
    """

    name: str
    given: Callable[[Any, bool], Tensor]
    measured: dict[str, Any]
    running: Callable[[nn.Module, Any, bool], list[tuple[str, nn.RNNBase, Tensor]]] | None = None
    on: Callable[[Any, Tensor], tuple[nn.Module, Tensor]] = lambda net, given: (net, given)
    ranked: str = "random:3"
    quick: bool = True

    @cached_property
    def factory(self) -> Any:
        """What makes the trained model; None where its files are not in the cache."""
        try:
            return depprobe.trained(self.name)
        except depprobe.BadInput as error:
            self.__dict__["reason"] = str(error)
            return None

    @property
    def family(self) -> str:
        return f"{self.name}: {ENTRIES[self.name].family}"

    def module(self, weights: str) -> nn.Module | None:
        """The model with trained or with drawn weights; None where neither is known."""
        if self.factory is None and (self.name != "g2p" or weights == "trained"):
            return None
        net = PhonemesOfLetters().eval() if self.factory is None else self.factory()
        return net if weights == "trained" else untrained(net)


def untrained(module: nn.Module) -> nn.Module:
    """A copy with weights as drawn before training, from seed 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = getattr(module, "config", None)
        if config is not None:
            return type(module)(config).eval()
        twin = copy.deepcopy(module)
        for part in twin.modules():
            if callable(draw := getattr(part, "reset_parameters", None)):
                draw()
            if isinstance(part, Block):
                _draw_mamba(part)
        if isinstance(own := getattr(twin, "attention", None), nn.Parameter):
            nn.init.uniform_(own, -0.05, 0.05)
    return twin


def _draw_mamba(block: Block) -> None:
    """A = -1, ..., -16 in every channel; Delta between 0.001 and 0.1 for an input of zero."""
    with torch.no_grad():
        block.A_log.copy_(torch.arange(1.0, block.A_log.shape[1] + 1).log().expand_as(block.A_log))
        block.D.fill_(1.0)
        step = torch.exp(torch.empty_like(block.delta.bias).uniform_(math.log(0.001), math.log(0.1)))
        block.delta.bias.copy_(torch.log(torch.expm1(step)))


def _ids(text: str, length: int) -> Callable[[Any, bool], Tensor]:
    return lambda factory, quick: torch.tensor(factory.ids(text)[:length])


def _words(factory: Any, quick: bool) -> Tensor:
    """English words of nine letters, ids (words, 10)."""
    found = [word for word in dict.fromkeys(re.findall(r"[a-z]+", ENGLISH.lower())) if len(word) == 9]
    return torch.tensor([letters_of(word) for word in found[: 6 if quick else 24]])


def _windows(factory: Any, quick: bool) -> Tensor:
    """Windows of 40 characters, ids (windows, 40)."""
    ids = factory.ids(ENGLISH)[1:]
    starts = range(100, 100 + 97 * (4 if quick else 24), 97)
    return torch.tensor([ids[start : start + 40] for start in starts])


def _frames(length: int) -> Callable[[Any, bool], Tensor]:
    return lambda factory, quick: torch.tensor(factory.frames(spoken(SPEECH), RATE)[20 : 20 + length]).float()


def _letters(net: Any, factory: Any, quick: bool) -> list[tuple[str, nn.RNNBase, Tensor]]:
    ids = torch.tensor(letters_of(ENGLISH)[: 150 if quick else 1000])
    return [("g2p encoder", net.encoder, net.letters(ids).detach())]


def _characters(net: Any, factory: Any, quick: bool) -> list[tuple[str, nn.RNNBase, Tensor]]:
    x = net.embedding(torch.tensor(factory.ids(ENGLISH)[: 150 if quick else 1000])).detach()
    return [
        ("textgenrnn 1", net.rnn_1, x),
        ("textgenrnn 2", net.rnn_2, net.rnn_1(x[None])[0][0].detach()),
    ]


def _sound(label: str) -> Callable[[Any, Any, bool], list[tuple[str, nn.RNNBase, Tensor]]]:
    def running(net: Any, factory: Any, quick: bool) -> list[tuple[str, nn.RNNBase, Tensor]]:
        x = torch.tensor(factory.frames(spoken(SPEECH), RATE)).float()[: 150 if quick else 600]
        read: list[Tensor] = []
        hook = net.lstm.register_forward_pre_hook(lambda module, given: read.append(given[0][0].detach()))
        with torch.no_grad():
            net(x[None])
        hook.remove()
        return [(label, net.lstm, read[0])]

    return running


_PROBED = {"method": "probes", "probes": 1}

CASES = (
    # the encoder alone, word by word: the same blocks, many words at once
    Case(
        *("g2p", _words, {"targets": "all"}, _letters),
        on=lambda net, ids: (net.encoder, net.letters(ids).detach()),
        ranked="last",
    ),
    Case("textgenrnn", _windows, {}, _characters, ranked="last"),
    Case("silero-vad", _frames(40), {"targets": [19, 29, 39]}, _sound("silero-vad")),
    Case("resemblyzer", _frames(60), {"targets": [39, 59]}, _sound("resemblyzer"), quick=False),
    Case("attacut", _ids(THAI, 80), {"targets": "every:4"}),
    Case("minilm", _ids(ENGLISH, 128), _PROBED | {"targets": "random:48"}, quick=False),
    Case("typeseg", _ids(ENGLISH, 128), _PROBED | {"targets": "random:32"}, quick=False),
)
