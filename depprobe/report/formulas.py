"""Captions for a paper as text for a page: the little TeX in them as characters."""

from __future__ import annotations

import re

from depprobe.curves.names import in_formulas

_SIGNS = {
    "partial": "∂",
    "Vert": "‖",
    "infty": "∞",
    "times": "×",
    "pm": "±",
    "cdot": "·",
    "div": "÷",
    "sqrt": "√",
    "sigma": "σ",
    "langle": "⟨",
    "rangle": "⟩",
}


def untexed(caption: str) -> str:
    r"""A caption whose formulas are plain text.

    Examples
    --------
    >>> untexed(r"$J_{t,k} = \\partial h_t$ at 5 % of $10^{-3}$")
    'J[t,k] = ∂h_t at 5 % of 10^-3'
    >>> untexed(r"$\partial \text{layers\_1.*}_k$")
    '∂layers_1.*_k'
    """
    return "".join(_plain(piece[1:-1]) if formula else piece for piece, formula in in_formulas(caption))


def _plain(formula: str) -> str:
    formula = re.sub(r"\\text\{([^{}]*)\}", r"\1", formula)
    signs = re.sub(r"\\([A-Za-z]+) ?", lambda found: _SIGNS.get(found[1], f"{found[1]} "), formula)
    subscripts = re.sub(r"_\{([^{}]*)\}", r"[\1]", signs)
    return re.sub(r"\\[,;! ]|[{}\\]", "", subscripts)
