r"""C9: whether attention gives loss-free global dependency.

    J_tk ~ a_tk W_O W_V,   sum_k a_tk = 1

Untrained and without positions attention cannot tell one distance from another, and weights that add up to 1
and favour none are about 1/n: a loss with length, none with distance, whatever is measured. So it is measured
with sinusoidal positions; on the copy task, at the lag the task needs, before and after training; and at the
far end of the past against depth, with and without a residual stream. How: ``attention_measurements``.
Source: Vaswani et al. 2017; Dong, Cordonnier and Loukas 2021 (rank collapse).
"""

from __future__ import annotations

import math

import numpy as np
import xarray as xr

from depprobe.ledger.claim import Claim, Measured, definition
from depprobe.ledger.evidence import About, evidence, mean
from depprobe.ledger.gradients.attention_measurements import (
    DEPTHS,
    PARTS,
    STREAMS,
    by_depth,
    by_length,
    by_training,
    uniform,
)
from depprobe.ledger.progress import Progress, teller
from depprobe.ledger.verdicts import CONFIRMED, QUALIFIED, REFUTED, UNMEASURED, verdict

#: lengths, width, draws of the weights
QUICK, FULL = ((64, 256, 1024, 4096), 64, 3), ((64, 128, 256, 512, 1024, 2048, 4096), 512, 3)
#: the same for stacks: length, width, heads
QUICK_STACK, FULL_STACK = (64, 16, 4), (256, 64, 8)
#: lags of the copy task, and seeds
QUICK_TRAINED, FULL_TRAINED = ((10, 30, 100), 2), ((10, 30, 100, 300), 3)
#: slopes of ln norm against ln n above the first are no loss, below the second a loss like 1/n
FREE, LOST = -0.25, -0.75
#: ratio of far to near norms counted as alike, and of norms after all layers to those after one
ALIKE = 2.0
#: loss over chance below which the task counts as learned
LEARNED = 0.25
#: V14: J_40,7 of two uniform causal layers over their common matrix
UNIFORM_SHARE = 0.0457135759734094


#: variable -> dimensions, long name, units
VARIABLES = {
    "log_norm_own": ("n seed", "ln norm of J[t,t]", "ln 1"),
    "entropy": ("n seed", "entropy of the weights over ln n", "1"),
    "largest_weight": ("n seed", "largest weight times n", "1"),
    "log_norm_past": ("n seed past", "median ln norm of J[t,k] in a part of the past", "ln 1"),
    "log_norm_past_positions": ("n seed past", "the same with positions added to the input", "ln 1"),
    "log_norm_far": ("stream depth seed", "median ln norm of J[t,k] in the far half of the past", "ln 1"),
    "spread": ("stream depth seed", "norm of outputs less their mean, over that of outputs", "1"),
    "log_norm_trained": ("snapshot task_lag seed", "ln rms norm of J[t,k] at the lag the task needs", "ln 1"),
    "relative_loss": ("task_lag seed",),
    "uniform_error": ("", "largest miss of ln ||W_O W_V|| - ln t", "ln 1"),
    "uniform_share": ("", "J_40,7 of two uniform layers", "1"),
}


def measure(quick: bool, progress: Progress | None = None, seed: int = 0) -> xr.Dataset:
    """Untrained norms and weights by length, stacks by depth, trained norms by lag (fewer seeds)."""
    lengths, d, draws = QUICK if quick else FULL
    lags, trainings = QUICK_TRAINED if quick else FULL_TRAINED
    stack = QUICK_STACK if quick else FULL_STACK
    seeds = list(range(seed, seed + draws))
    tell = teller(progress, draws * (len(lengths) + len(STREAMS) * len(DEPTHS)) + trainings * len(lags))
    found = by_length(lengths, d, seeds, tell) | by_depth(stack, seeds, tell)
    found |= by_training(lags, seeds, trainings, tell) | uniform()
    return evidence(
        About("C9", "Loss of gradient through attention", "attention", max(lengths), d, quick, seed),
        {name: (dims, found[name], *words) for name, (dims, *words) in VARIABLES.items()},
        {
            "n": lengths,
            "seed": seeds,
            "past": (np.arange(PARTS) + 0.5) / PARTS,
            "stream": STREAMS,
            "depth": DEPTHS,
            "task_lag": lags,
            "snapshot": ["before", "after"],
        },
        stack_n=stack[0],
        stack_d=stack[1],
    )


def slopes(log_norms: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Slope of ln norm (n, seeds) against ln n for each seed.

    Examples
    --------
    >>> slopes(np.log([[1.0], [0.5], [0.25]]), np.array([10.0, 20.0, 40.0])).round(9).tolist()
    [-1.0]
    """
    x = np.log(lengths) - np.log(lengths).mean()
    found: np.ndarray = (x[:, None] * log_norms).sum(0) / (x**2).sum()
    return found


def _far_over_near(norms: xr.DataArray) -> dict[int, Measured]:
    ratio = norms.isel(past=-1) - norms.isel(past=0)
    return {int(n): mean(np.exp(ratio.sel(n=n))) for n in norms["n"]}


def _shown(each: dict[int, Measured]) -> dict[str, Measured]:
    worst = max(each, key=lambda n: abs(math.log(each[n].value)))
    return {f"norm at the far end of the past over that nearby, n = {n}": each[n] for n in {worst, max(each)}}


def _distance(ds: xr.Dataset) -> tuple:
    each = _far_over_near(ds["log_norm_past_positions"])
    alike = [abs(math.log(one.value)) <= math.log(ALIKE) for one in each.values()]
    return (
        verdict(sum(alike), len(alike)),
        _shown(each),
        "norms at the far end of the past differ from those nearby" + " at some lengths" * any(alike),
    )


def _thinned(ds: xr.Dataset) -> dict[str, Measured]:
    norms, most = ds["log_norm_past"].mean("past").transpose("n", "seed").values, int(ds["n"].max())
    return {
        "slope of ln norm against ln n": mean(slopes(norms, ds["n"].values.astype(float))),
        f"entropy of the weights over ln n, n = {most}": mean(ds["entropy"].sel(n=most)),
        f"largest weight times n, n = {most}": mean(ds["largest_weight"].sel(n=most)),
    }


def _training(ds: xr.Dataset) -> tuple:
    if not float(ds["relative_loss"].max()) < LEARNED:
        return UNMEASURED, {}, "needs a layer that learns to copy from every lag"
    norms = ds["log_norm_trained"].transpose("snapshot", "task_lag", "seed")
    lengths, far = ds["task_lag"].values + 1.0, int(ds["task_lag"].max())
    before, after = (mean(slopes(norms.sel(snapshot=s).values, lengths)) for s in ("before", "after"))
    numbers = {"slope of ln norm at the lag needed against ln n, before": before, "after": after}
    numbers |= {
        f"norm at lag {far}, {moment}": mean(np.exp(norms.sel(snapshot=moment, task_lag=far)))
        for moment in ("before", "after")
    }
    lost = after.value < LOST
    how = "as 1/n" if lost else "more slowly than 1/n"
    return (
        CONFIRMED if after.value > FREE else REFUTED if lost else QUALIFIED,
        numbers,
        f"the norm falls {how} with the lag; training does not sharpen the weights enough",
    )


def _depth(ds: xr.Dataset) -> tuple:
    last = int(ds["depth"].max())
    grown = ds["log_norm_far"].sel(depth=last) - ds["log_norm_far"].sel(depth=1)
    kept = [stream for stream in STREAMS if mean(np.exp(grown.sel(stream=stream))).value >= 1 / ALIKE]
    # beyond the second layer the difference between positions is soon below round-off
    apart = ds["spread"].sel(depth=2)
    changes = {
        f"far norm after {last} layers over that after one, stream {stream}": mean(
            np.exp(grown.sel(stream=stream))
        )
        for stream in STREAMS
    }
    spreads = {
        f"log10 of what tells outputs apart after 2 layers, stream {stream}": mean(
            np.log10(apart.sel(stream=stream))
        )
        for stream in STREAMS
    }
    return (
        verdict(len(kept), len(STREAMS)),
        changes | spreads,
        "only on a residual stream; without one every layer loses and all positions become one"
        if kept == ["residual"]
        else f"every layer loses{' on a residual stream' if kept else ', with a residual stream or without'}",
    )


def checks(ds: xr.Dataset) -> list[str]:
    """Uniform causal attention: W_O W_V / t (V13), and the share of two layers (V14)."""
    faults = []
    if not float(ds["uniform_error"]) < 1e-9:
        faults.append("uniform causal attention has not the norms of W_O W_V / t")
    if not math.isclose(float(ds["uniform_share"]), UNIFORM_SHARE, rel_tol=1e-9):
        faults.append(f"two uniform layers give {float(ds['uniform_share']):.13g}, not {UNIFORM_SHARE:.13g}")
    return faults


CLAIM = Claim(
    "C9",
    "Attention gives loss-free global dependency.",
    "Untrained and without positions it cannot be otherwise than it is, at no distance and at every "
    f"length. Global, with positions: norms at the far end of the past are within a factor {ALIKE:g} of "
    "those nearby; confirmed at every n, refuted at none. Loss-free once trained, by the slope of ln norm "
    f"at the lag the task needs against ln n: confirmed above {FREE:g}, refuted below {LOST:g}, else "
    f"qualified. Depth: a stack loses if its far norm falls below 1/{ALIKE:g} of that of one layer; "
    "confirmed if it does not, with a residual stream and without, refuted if it does in both, else "
    "qualified.",
    measure,
    {
        "global, untrained and without positions": definition(
            "positions are exchangeable: no distance can be told from another",
            lambda ds: _shown(_far_over_near(ds["log_norm_past"])),
        ),
        "global, untrained with positions": _distance,
        "loss-free, untrained": definition(
            "it cannot be: weights add up to 1 and favour no position, so that each passes on about 1/n",
            _thinned,
        ),
        "loss-free, with positions and trained to copy": _training,
        "loss-free through untrained layers, one after another": _depth,
    },
    checks,
)
