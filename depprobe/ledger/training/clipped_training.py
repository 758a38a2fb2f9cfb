r"""C14: whether recurrence can be used for long sequences with gradient clipping.

    g = dL/dW,   W <- step(W, g min(1, 1 / ||g||))        one factor for all weights and all lags

Recurrent layers are trained on the copy task, whose answer is the input ``task_lag`` positions ago, free and
clipped, from the same weights on the same sequences, by gradient descent and by Adam, which scales by itself.
Runs are told apart by the norm of J at that lag before training: below 1e-3 it has vanished, above 1 it
explodes. Learned means a loss on fresh sequences below a quarter of that of chance, within the steps allowed.
Source: Pascanu, Mikolov and Bengio 2013 (clipping); Arjovsky, Shah and Bengio 2016 (copy).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from depprobe.ledger.claim import CONFIRMED, QUALIFIED, REFUTED, Claim, Finding, Measured, Progress, verdict
from depprobe.ledger.evidence import command_of, mean

if TYPE_CHECKING:
    from depprobe.ledger.training.grid import Plan

LAYERS = ("rnn", "rnn:gain=1,orthogonal=true", "rnn:gain=2", "lstm:forget_bias=3")
#: sign tests below this count as decided
LEVEL = 0.05
#: share of the steps clipped below which clipping does nothing
IDLE = 0.05


def plan(quick: bool, seed: int = 0) -> Plan:
    """What is trained."""
    from depprobe.ledger.training.grid import Plan

    if quick:
        return Plan(LAYERS, LAYERS, lags=(10, 50), clipped_lags=(10, 50), seeds=2, steps=100, seed=seed)
    lags = (10, 50, 200)
    return Plan((*LAYERS, "gru"), (*LAYERS, "gru"), lags, lags, seeds=3, batch=32, steps=300, seed=seed)


def measure(quick: bool, progress: Progress | None = None, seed: int = 0) -> xr.Dataset:
    """Losses, gradient norms and decay curves of every run; see ``training.grid``."""
    from depprobe.ledger.training.grid import grid

    ds = grid(plan(quick, seed), command_of("C14", quick, seed), progress=progress)
    return ds.assign_attrs(claim="C14", mode="quick" if quick else "full")


def sign_test(wins: int, losses: int) -> float:
    """Probability of at least so many wins among the decided pairs if either were as likely.

    Examples
    --------
    >>> sign_test(5, 0), sign_test(0, 0)
    (0.03125, 1.0)
    """
    from scipy.stats import binomtest

    of = wins + losses
    return float(binomtest(wins, of, alternative="greater").pvalue) if of else 1.0


def judge(ds: xr.Dataset) -> list[Finding]:
    """What clipping does for what explodes, for what vanishes, and how far clipped recurrences learn."""
    from depprobe.ledger.training.outcomes import kinds, pairs

    row = pairs(ds)
    kind = kinds(row["log_norm_needed"])
    learned, act = row["learned"] > 0, row["clipped_share"]
    sgd = (row["optimizer"] == "sgd") & ~kind["vanished"]
    return [
        _bounded(learned[sgd], act[sgd], row["diverged"][sgd]),
        _vanished(learned[kind["vanished"]], act[kind["vanished"]]),
        _long(row, learned[:, 1], kind),
    ]


def _bounded(learned: np.ndarray, act: np.ndarray, diverged: np.ndarray) -> Finding:
    part = "clipping lets gradient descent learn where the gradient arrives or explodes"
    if not len(learned):
        return Finding(part, verdict(0, 0), {}, "needs runs whose gradient arrives")
    wins = int((learned[:, 1] & ~learned[:, 0]).sum())
    losses = int((learned[:, 0] & ~learned[:, 1]).sum())
    helps, harms = sign_test(wins, losses) <= LEVEL, sign_test(losses, wins) <= LEVEL
    of = f"of {len(learned)}"
    return Finding(
        part,
        CONFIRMED if helps else REFUTED if harms else QUALIFIED,
        {
            "learned, free": Measured(int(learned[:, 0].sum()), unit=of),
            "learned, clipped": Measured(int(learned[:, 1].sum()), unit=of),
            "overflowed, free": Measured(int(diverged[:, 0].sum()), unit=of),
            "steps clipped": mean(act),
            "sign test": Measured(sign_test(wins, losses)),
        },
        "fewer are learned with clipping than without"
        if harms
        else "free and clipped do not differ beyond chance in these runs",
    )


def _vanished(learned: np.ndarray, act: np.ndarray) -> Finding:
    part = "clipping helps where the gradient has vanished"
    if not len(learned):
        return Finding(part, verdict(0, 0), {}, "needs runs whose gradient has vanished")
    wins = int((learned[:, 1] & ~learned[:, 0]).sum())
    idle = float(act.mean()) < IDLE
    of = f"of {len(learned)}"
    return Finding(
        part,
        verdict(wins, len(learned)),
        {
            "learned, free": Measured(int(learned[:, 0].sum()), unit=of),
            "learned, clipped": Measured(int(learned[:, 1].sum()), unit=of),
            "steps clipped": mean(act),
        },
        "in some runs only"
        if wins
        else "the gradient is short already, so clipping never acts; and where it acts one factor scales all "
        "lags alike"
        if idle
        else "it acts, but one factor scales all lags alike: what has vanished stays small beside the rest",
    )


def _long(row: dict[str, np.ndarray], learned: np.ndarray, kind: dict[str, np.ndarray]) -> Finding:
    longest = int(row["task_lag"].max())
    far = row["task_lag"] == longest
    result = verdict(int(learned[far].sum()), int(far.sum()))
    numbers = {
        f"learned at lag {longest}, gradient {name}": Measured(
            int(learned[far & inside].sum()), unit=f"of {int((far & inside).sum())}"
        )
        for name, inside in kind.items()
        if (far & inside).any()
    }
    names = sorted({str(layer) for layer in row["layer"][far & learned]})
    none_vanished = "" if learned[far & kind["vanished"]].any() else ", and none whose gradient had vanished"
    return Finding(
        f"recurrence with clipping learns lag {longest}",
        result,
        numbers,
        f"within the steps allowed only some runs of {', '.join(names)}{none_vanished}"
        if names
        else "no recurrence did within the steps allowed",
    )


def checks(ds: xr.Dataset) -> list[str]:
    """Free runs are never clipped; where clipping never acted, free and clipped are one run."""
    free, clipped = ds.sel(clip=np.inf), ds.sel(clip=1.0)
    faults = []
    if (free["clipped_share"] > 0).any():
        faults.append("a gradient was clipped in a run without clipping")
    idle = (clipped["clipped_share"] == 0) & free["relative_loss"].notnull()
    if (free["relative_loss"] != clipped["relative_loss"]).where(idle, False).any():
        faults.append("clipping that never acted changed what was learned")
    return faults


CLAIM = Claim(
    "C14",
    "Recurrence can be used for long sequences with gradient clipping.",
    "Runs from the same weights, free and clipped to norm 1, by the norm of J at the task's lag before "
    "training. Where it is above 1e-3: confirmed if clipping adds learned runs of gradient descent, "
    "refuted if it takes some away, beyond chance (one-sided sign test, 5 %), else qualified. Where it "
    "is below: confirmed if clipping makes every such run learn, refuted if none, else qualified. The "
    "longest lag: confirmed if every clipped run learns it, refuted if none, else qualified.",
    measure,
    judge,
    checks,
)
