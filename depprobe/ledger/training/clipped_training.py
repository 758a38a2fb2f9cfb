r"""C14: whether recurrence can be used for long sequences with gradient clipping.

    g = dL/dW,   W <- step(W, g min(1, 1 / ||g||))        one factor for all weights and all lags

Recurrent layers are trained on the copy task, whose answer is the input ``task_lag`` positions ago, free and
clipped, from the same weights on the same sequences, by gradient descent and by Adam, which scales by itself;
each run is the best, by its training loss, of several learning rates, and tests something if it clips.
Runs are told apart by the norm of J at that lag before training: below 1e-3 it has vanished, above 1 it
explodes. Learned means a loss on fresh sequences below a quarter of that of chance, within the steps allowed.
Source: Pascanu, Mikolov and Bengio 2013 (clipping); Arjovsky, Shah and Bengio 2016 (copy).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from depprobe.ledger.claim import Claim, Measured
from depprobe.ledger.evidence import command_of, mean
from depprobe.ledger.progress import Progress
from depprobe.ledger.verdicts import CONFIRMED, QUALIFIED, REFUTED, UNMEASURED, verdict

if TYPE_CHECKING:
    from depprobe.ledger.training.grid import Plan

LAYERS = ("rnn", "rnn:gain=1,orthogonal=true", "rnn:gain=2", "lstm:forget_bias=3")
#: sign tests below this count as decided
LEVEL = 0.05
#: multiples of the learning rate
QUICK_RATES, RATES = (0.1, 1.0, 3.0), (0.03, 0.1, 0.3, 1.0, 3.0)


def plan(quick: bool, seed: int = 0) -> Plan:
    """What is trained."""
    from depprobe.ledger.training.grid import Plan

    if quick:
        return Plan(LAYERS, LAYERS, (10, 50), (10, 50), seeds=2, steps=100, seed=seed, rates=QUICK_RATES)
    lags, layers = (10, 50, 200), (*LAYERS, "gru")
    return Plan(layers, layers, lags, lags, seeds=3, batch=32, steps=300, seed=seed, rates=RATES)


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


def _counts(learned: np.ndarray, act: np.ndarray) -> dict[str, Measured]:
    free, clipped = (Measured(int(arm.sum()), unit=f"of {len(learned)}") for arm in learned.T)
    return {"learned, free": free, "learned, clipped": clipped, "steps clipped": mean(act)}


def _tested(ds: xr.Dataset, vanished: bool) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Pairs of runs, and which of them clipping acted on, by whether their gradient had vanished."""
    from depprobe.ledger.training.outcomes import kinds, pairs

    row = pairs(ds)
    return row, (kinds(row["log_norm_needed"])["vanished"] == vanished) & (row["clipped_share"] > 0)


def _bounded(ds: xr.Dataset) -> tuple:
    row, acted = _tested(ds, vanished=False)
    acted &= row["optimizer"] == "sgd"
    learned, diverged = row["learned"][acted] > 0, row["diverged"][acted]
    if not len(learned):
        return UNMEASURED, {}, "needs runs whose gradient arrives, and which clip some steps"
    wins, losses = int((learned[:, 1] & ~learned[:, 0]).sum()), int((learned[:, 0] & ~learned[:, 1]).sum())
    helps, harms = sign_test(wins, losses) <= LEVEL, sign_test(losses, wins) <= LEVEL
    numbers = _counts(learned, row["clipped_share"][acted])
    numbers["overflowed, free"] = Measured(int(diverged[:, 0].sum()), unit=f"of {len(learned)}")
    numbers["sign test"] = Measured(sign_test(wins, losses))
    return (
        CONFIRMED if helps else REFUTED if harms else QUALIFIED,
        numbers,
        "fewer are learned with clipping than without"
        if harms
        else "each at its best learning rate, free and clipped do not differ beyond chance in these runs",
    )


def _vanished(ds: xr.Dataset) -> tuple:
    row, acted = _tested(ds, vanished=True)
    learned = row["learned"][acted] > 0
    if not len(learned):
        return UNMEASURED, {}, "needs runs whose gradient has vanished and yet is long enough to be clipped"
    wins = int((learned[:, 1] & ~learned[:, 0]).sum())
    return (
        verdict(wins, len(learned)),
        _counts(learned, row["clipped_share"][acted]),
        "in some runs only"
        if wins
        else "it acts, but one factor scales all lags alike: what has vanished stays small beside the rest",
    )


def _long(ds: xr.Dataset) -> tuple:
    from depprobe.ledger.training.outcomes import kinds, pairs

    row = pairs(ds)
    kind, learned, longest = (
        kinds(row["log_norm_needed"]),
        row["learned"][:, 1] > 0,
        int(row["task_lag"].max()),
    )
    far = row["task_lag"] == longest
    numbers = {
        f"learned at lag {longest}, gradient {name}": Measured(
            int(learned[far & inside].sum()), unit=f"of {int((far & inside).sum())}"
        )
        for name, inside in kind.items()
        if (far & inside).any()
    }
    names = sorted({str(layer) for layer in row["layer"][far & learned]})
    none_vanished = "" if learned[far & kind["vanished"]].any() else ", and none whose gradient had vanished"
    return (
        verdict(int(learned[far].sum()), int(far.sum())),
        numbers,
        f"within the steps allowed only some runs of {', '.join(names)}{none_vanished}"
        if names
        else "no recurrence did within the steps allowed",
    )


def checks(ds: xr.Dataset) -> list[str]:
    """Free runs are never clipped; where clipping never acted, runs of one learning rate are one run."""
    free, clipped = ds.sel(clip=np.inf), ds.sel(clip=1.0)
    faults = []
    if (free["clipped_share"] > 0).any():
        faults.append("a gradient was clipped in a run without clipping")
    alike = free["learning_rate"] == clipped["learning_rate"]
    idle = alike & (clipped["clipped_share"] == 0) & free["relative_loss"].notnull()
    if (free["relative_loss"] != clipped["relative_loss"]).where(idle, False).any():
        faults.append("clipping that never acted changed what was learned")
    return faults


CLAIM = Claim(
    "C14",
    "Recurrence can be used for long sequences with gradient clipping.",
    "Runs from the same weights, free and clipped to norm 1, each at the best of several learning rates "
    "by its training loss, by the norm of J at the task's lag before training; without a step clipped "
    "they test nothing. Where it is above 1e-3: confirmed if clipping adds learned runs of gradient "
    "descent, refuted if it takes some away, beyond chance (one-sided sign test, 5 %), else qualified. "
    "Where it is below: confirmed if clipping makes every such run learn, refuted if none, else "
    "qualified. The longest lag: confirmed if every clipped run learns it, refuted if none, else "
    "qualified.",
    measure,
    {
        "clipping lets gradient descent learn where the gradient arrives or explodes": _bounded,
        "clipping helps where the gradient has vanished": _vanished,
        "recurrence with clipping learns the longest lag": _long,
    },
    checks,
)
