r"""Forwards composed at random from parts such as users combine.

    x (b, n, d)  --step-->  ...  --step-->  y (b, n', d'),      step = a way of joining, and one or two parts

What is drawn is a small plain tuple, so that a failure shrinks to few steps and prints as what it takes to
build it again: ``Composed(*drawn)``.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from forward_parts import PARTS
from hypothesis import strategies as st
from known_parts import F64
from torch import Tensor, nn

#: ways of joining what one or two parts put out with what they read
JOINTS = (
    "then", "then", "residual", "residual", "in place", "gate", "cat", "tied", "detach", "no_grad",
    "twice read",
)  # fmt: skip
LAYOUTS = ("b n d", "n b d", "b d n", "n d")
RETURNS = ("tensor", "tuple", "dict")


class Step(NamedTuple):
    """One step: how it joins, which parts, and the seed of their sizes and options."""

    joint: str
    part: str
    other: str
    seed: int


class Joined(nn.Module):
    """One step at length n and width d."""

    def __init__(self, step: Step, n: int, d: int) -> None:
        super().__init__()
        r = random.Random(step.seed)
        self.joint = step.joint
        self.a = PARTS[step.part](r, n, d)
        self.fit = nn.Linear(self.a.d, d)
        two = step.joint in ("gate", "cat", "detach", "no_grad")
        self.b = PARTS[step.other](r, n, d) if two else None
        if step.joint == "tied" and self.a.n != n:
            self.joint = "then"
        self.n, self.d = self.a.n, d
        if self.joint == "then":
            self.d = self.a.d
        elif self.joint in ("residual", "in place", "twice read"):
            self.n = min(n, self.a.n)
        elif self.b is not None:
            self.n = min(self.a.n, self.b.n)
            self.d = self.a.d + self.b.d if self.joint == "cat" else d
            self.fit_b = nn.Linear(self.b.d, d)

    def forward(self, x: Tensor) -> Tensor:
        a, b, n = self.a, self.b, self.n
        if self.joint == "then":
            return a(x)
        if self.joint == "tied":
            return self.fit(a(self.fit(a(x))))
        if self.joint == "residual":
            return x[:, -n:] + self.fit(a(x))[:, -n:]
        if self.joint == "twice read":
            y = self.fit(a(x))[:, -n:]
            return y * x[:, -n:] + y.tanh()
        if self.joint == "in place":
            y = x[:, -n:].clone()
            y += self.fit(a(x))[:, -n:]
            return y
        assert b is not None
        if self.joint == "cat":
            return torch.cat([a(x)[:, -n:], b(x)[:, -n:]], -1)
        if self.joint == "gate":
            return self.fit(a(x))[:, -n:] * self.fit_b(b(x))[:, -n:].sigmoid()
        if self.joint == "detach":
            return self.fit(a(x))[:, -n:] + self.fit_b(b(x)).detach()[:, -n:].cos()
        with torch.no_grad():
            beside = self.fit_b(b(x))[:, -n:]
        return self.fit(a(x))[:, -n:] * beside


class Composed(nn.Module):
    """The forward that was drawn."""

    def __init__(self, steps: list[Step], n: int, d: int, layout: str, returns: str, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layout, self.returns = layout, returns
        self.steps = nn.ModuleList()
        for step in steps:
            joined = Joined(step, n, d)
            n, d = joined.n, joined.d
            self.steps.append(joined)
        self.to(F64).eval()

    def forward(self, x: Tensor) -> Any:
        x = {"b n d": x, "n b d": x.transpose(0, 1), "b d n": x.mT, "n d": x[None]}[self.layout]
        for step in self.steps:
            x = step(x)
        y = {"b n d": x, "n b d": x.transpose(0, 1), "b d n": x.mT, "n d": x[0]}[self.layout]
        return {"tensor": y, "tuple": (y, x.mean()), "dict": {"y": y, "mean": x.mean()}}[self.returns]


def forwards(
    parts: Sequence[str] = tuple(sorted(PARTS)), joints: Sequence[str] = JOINTS
) -> st.SearchStrategy[tuple[list[Step], int, int, str, str, int]]:
    """The arguments of ``Composed``."""
    names, seeds = st.sampled_from(parts), st.integers(0, 9999)
    return st.tuples(
        st.lists(st.builds(Step, st.sampled_from(joints), names, names, seeds), min_size=1, max_size=5),
        st.sampled_from((5, 7, 9, 11)),
        st.integers(2, 5),
        st.sampled_from(LAYOUTS),
        st.sampled_from(RETURNS),
        seeds,
    )
