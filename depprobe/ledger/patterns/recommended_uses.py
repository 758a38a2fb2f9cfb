r"""The verdicts on what sparse attention patterns are for: who gets the gradient.

    gain = share of squared norms on the sources meant / that of full attention with the same input and seed

The sources meant: lags within half a window, multiples of a period, the target's own document. Much of a
share is fixed by the mask; what a pattern is for is judged against the other patterns, which have masks too.
Source: Child et al. 2019, section 4 (what patterns are for).
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from depprobe.ledger.claim import Measured, Rule
from depprobe.ledger.evidence import mean
from depprobe.ledger.verdicts import verdict

PATTERNS = ("sliding-window", "dilated-attention", "block-attention")


def gain(ds: xr.Dataset, pattern: str, what: str, over: str = "attention") -> Measured:
    """Share of a pattern over that of another with the same seed: mean and standard error."""
    shares = ds["share"].sel(depth=1, input=what)
    with np.errstate(divide="ignore", invalid="ignore"):
        return mean(shares.sel(pattern=pattern) / shares.sel(pattern=over))


def _more(one: Measured) -> bool:
    return one.value - 2 * float(np.nan_to_num(one.stderr)) > 1


def named(ds: xr.Dataset, word: str) -> list[str]:
    """Inputs whose name starts with a word."""
    return [str(name) for name in ds["input"].values if str(name).startswith(word)]


def in_window(ds: xr.Dataset) -> dict[str, Measured]:
    """Share of gradient within the window, which the mask makes all of it."""
    return {
        "share of gradient within the window": mean(
            ds["share"].sel(pattern=PATTERNS[0], depth=1, input="nearby")
        ),
        "over that of full attention": gain(ds, PATTERNS[0], "nearby"),
        "share of sources reached by one layer": Measured(
            float(ds["reach"].sel(pattern=PATTERNS[0], depth=1))
        ),
    }


def of_use(pattern: str, word: str, why: str = "") -> Rule:
    """Whether a pattern gives the sources meant more gradient than full attention and every other pattern do.

    ``why`` is said where it gives some of them none at all.
    """

    def rule(ds: xr.Dataset) -> tuple:
        inputs = named(ds, word)
        others = [name for name in ("attention", *PATTERNS) if name != pattern]
        ahead = {what: [x for x in others if not _more(gain(ds, pattern, what, x))] for what in inputs}
        held = [what for what in inputs if not ahead[what]]
        shares = ds["share"].sel(depth=1, pattern=pattern)
        none = [what for what in inputs if not shares.sel(input=what).any()]
        notes = [f"it gives most for {', '.join(held) or 'none of the inputs'}"]
        notes += [f"{', '.join(ahead[what])} give no less for {what}" for what in inputs if ahead[what]]
        if none:
            notes.append(f"no gradient at all for {', '.join(none)}: {why}")
        numbers = {f"{what}: share": mean(shares.sel(input=what)) for what in inputs}
        numbers |= {
            f"{what}: share by the mask alone": Measured(
                float(ds["share_mask"].sel(pattern=pattern, input=what))
            )
            for what in inputs
        }
        numbers |= {
            f"{what}: over that of full attention, {name}": gain(ds, name, what)
            for what in inputs
            for name in PATTERNS
        }
        numbers["share of sources reached by two layers"] = Measured(
            float(ds["reach"].sel(pattern=pattern, depth=2))
        )
        return verdict(len(held), len(inputs)), numbers, "; ".join(notes)

    return rule
