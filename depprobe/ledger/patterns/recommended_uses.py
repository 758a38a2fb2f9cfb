r"""The verdict on what sparse attention patterns are for: who gets the gradient.

    gain = share of squared norms on the sources meant / that of full attention with the same input and seed

The sources meant: lags within half a window, multiples of a period, the target's own document.
Source: Child et al. 2019, section 4 (what patterns are for).
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from depprobe.ledger.claim import CONFIRMED, QUALIFIED, REFUTED, Finding, Measured, verdict
from depprobe.ledger.evidence import mean


def gain(ds: xr.Dataset, pattern: str, what: str, depth: int = 1) -> Measured:
    """Share of a pattern over that of full attention with the same seed: mean and standard error."""
    shares = ds["share"].sel(depth=depth, input=what)
    return mean(shares.sel(pattern=pattern) / shares.sel(pattern="attention"))


def _more(one: Measured) -> bool:
    return one.value - 2 * float(np.nan_to_num(one.stderr)) > 1


def named(ds: xr.Dataset, word: str) -> list[str]:
    """Inputs whose name starts with a word."""
    return [str(name) for name in ds["input"].values if str(name).startswith(word)]


def of_window(ds: xr.Dataset) -> Finding:
    """All gradient stays in the window, and full attention spreads it."""
    near = gain(ds, "sliding-window", "nearby")
    inside = mean(ds["share"].sel(pattern="sliding-window", depth=1, input="nearby"))
    local = bool(inside.value == 1) and _more(near)
    return Finding(
        "sliding-window is for local dependence",
        CONFIRMED if local else REFUTED,
        {
            "share of gradient within the window": inside,
            "over that of full attention": near,
            "share of sources reached by one layer": Measured(
                float(ds["reach"].sel(pattern="sliding-window", depth=1))
            ),
        },
        "" if local else "gradient goes beyond the window, or full attention has as much within it",
    )


def of_periods(ds: xr.Dataset) -> Finding:
    """Multiples of a period get more than from full attention."""
    periods = named(ds, "period")
    gains = {what: gain(ds, "dilated-attention", what) for what in periods}
    held = [what for what in periods if _more(gains[what])]
    none = [
        what
        for what in periods
        if not ds["share"].sel(pattern="dilated-attention", depth=1, input=what).any()
    ]
    found = verdict(len(held), len(periods))
    note = ""
    if found != CONFIRMED:
        note = f"holds for {', '.join(held)}" if held else "for no period measured"
        if none:
            note += (
                f"; no gradient at all goes to multiples of {', '.join(what.split()[1] for what in none)}: "
                "distances are powers of two, and none is a multiple of a number with an odd factor"
            )
    return Finding(
        "dilated-attention is for periodic signals",
        found,
        {
            f"{what}: share at multiples": mean(
                ds["share"].sel(pattern="dilated-attention", depth=1, input=what)
            )
            for what in periods
        }
        | {f"{what}: over that of full attention": one for what, one in gains.items()}
        | {
            f"{what}: two layers, over full attention": gain(ds, "dilated-attention", what, 2)
            for what in periods
        },
        note,
    )


def of_documents(ds: xr.Dataset) -> Finding:
    """The own document gets more than from full attention; two layers reach everything.

    Other patterns that give it more still are named.
    """
    documents = named(ds, "documents")
    more = {what: gain(ds, "block-attention", what) for what in documents}
    reach = float(ds["reach"].sel(pattern="block-attention", depth=2))
    held = [what for what in documents if _more(more[what])]
    favours, everywhere = len(held) == len(documents), reach == 1
    others = {
        what: {name: gain(ds, name, what) for name in ("sliding-window", "dilated-attention")}
        for what in documents
    }
    ahead = [
        name
        for name in ("sliding-window", "dilated-attention")
        if all(others[what][name].value > more[what].value for what in documents)
    ]
    notes = (
        [f"{' and '.join(ahead)} give{'s' * (len(ahead) == 1)} the own document more still"] if ahead else []
    )
    if not (favours and everywhere):
        notes = [
            f"the own document gets more than by full attention with {', '.join(held) or 'no boundary'}",
            f"two layers {'reach' if everywhere else 'do not reach'} every position",
            *notes,
        ]
    return Finding(
        "block-attention is for documents",
        CONFIRMED if favours and everywhere else QUALIFIED if everywhere or held else REFUTED,
        {
            f"{what}: share in the own document": mean(
                ds["share"].sel(pattern="block-attention", depth=1, input=what)
            )
            for what in documents
        }
        | {f"{what}: over that of full attention": one for what, one in more.items()}
        | {
            f"{what}: over that of full attention, {name}": one
            for what, found in others.items()
            for name, one in found.items()
        }
        | {
            f"share of sources reached by {layers} layer{'s' * (layers > 1)}": Measured(
                float(ds["reach"].sel(pattern="block-attention", depth=layers))
            )
            for layers in map(int, ds["depth"].values)
        },
        "; ".join(notes),
        remark="; ".join(notes),
    )
