r"""C9: whether attention gives loss-free global dependency.

    J_tk ~ a_tk W_O W_V, with untrained weights a_tk ~ 1/n at any distance: a loss with length, none with lag

Measured: norms of the last row over the past against n; norms at the far end of the past against depth, with
and without a residual stream; and, on the copy task, the norm at the lag the task needs before and after
training, against that lag. How: ``attention_measured``.
Source: Vaswani et al. 2017; Dong, Cordonnier and Loukas 2021 (rank collapse).
"""

from __future__ import annotations

import math

import numpy as np
import xarray as xr

from depprobe.ledger.claim import CONFIRMED, QUALIFIED, REFUTED, Claim, Finding, Progress, verdict
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


def measure(quick: bool, progress: Progress | None = None, seed: int = 0) -> xr.Dataset:
    """Untrained norms and weights by length, stacks by depth, trained norms by lag."""
    lengths, d, draws = QUICK if quick else FULL
    lags, trainings = QUICK_TRAINED if quick else FULL_TRAINED
    stack = QUICK_STACK if quick else FULL_STACK
    seeds = list(range(seed, seed + draws))
    total = draws * (len(lengths) + len(STREAMS) * len(DEPTHS)) + trainings * len(lags)
    done = 0

    def tell(label: str) -> None:
        nonlocal done
        if progress:
            progress(done, total, label)
        done += 1

    lengthened, stacked = by_length(lengths, d, seeds, tell), by_depth(stack, seeds, tell)
    # trained with fewer seeds than drawn: NaN where not trained
    trained = {
        name: np.concatenate([values, np.full((*values.shape[:-1], draws - trainings), np.nan)], axis=-1)
        for name, values in by_training(lags, seeds[:trainings], tell).items()
    }
    exact = uniform()
    ln = "ln 1"
    return evidence(
        About("C9", "Loss of gradient through attention", "attention", max(lengths), d, quick, seed),
        {
            "log_norm_own": (("n", "seed"), lengthened["log_norm_own"], "ln norm of J[t,t]", ln),
            "entropy": (("n", "seed"), lengthened["entropy"], "entropy of the weights over ln n", "1"),
            "largest_weight": (("n", "seed"), lengthened["largest_weight"], "largest weight times n", "1"),
            "log_norm_past": (
                ("n", "seed", "past"),
                lengthened["log_norm_past"],
                "median ln norm of J[t,k] in a part of the past",
                ln,
            ),
            "log_norm_far": (
                ("stream", "depth", "seed"),
                stacked["log_norm_far"],
                "median ln norm of J[t,k] in the far half of the past",
                ln,
            ),
            "spread": (
                ("stream", "depth", "seed"),
                stacked["spread"],
                "norm of the outputs' differences from their mean, over that of the outputs",
                "1",
            ),
            "log_norm_trained": (
                ("snapshot", "task_lag", "seed"),
                trained["log_norm_trained"],
                "ln rms norm of J[t,k] at the lag the task needs",
                ln,
            ),
            "relative_loss": (("task_lag", "seed"), trained["relative_loss"]),
            "uniform_error": ((), exact["uniform_error"], "largest miss of ln ||W_O W_V|| - ln t", ln),
            "uniform_share": ((), exact["uniform_share"], "J_40,7 of two uniform layers", "1"),
        },
        {
            "n": list(lengths),
            "seed": seeds,
            "past": (np.arange(PARTS) + 0.5) / PARTS,
            "stream": list(STREAMS),
            "depth": list(DEPTHS),
            "task_lag": list(lags),
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


def judge(ds: xr.Dataset) -> list[Finding]:
    """Distance, length, training, depth."""
    return [_distance(ds), _length(ds), _training(ds), _depth(ds)]


def _distance(ds: xr.Dataset) -> Finding:
    ratio = (ds["log_norm_past"].isel(past=-1) - ds["log_norm_past"].isel(past=0)).transpose("n", "seed")
    each = {int(n): mean(np.exp(ratio.sel(n=n))) for n in ds["n"]}
    worst = max(each, key=lambda n: abs(math.log(each[n].value)))
    even = max(each[worst].value, 1 / each[worst].value) <= ALIKE
    return Finding(
        "global: what arrives does not depend on the distance",
        CONFIRMED if even else REFUTED,
        {f"norm at the far end of the past over that nearby, n = {n}": each[n] for n in {worst, max(each)}},
        "norms at the far end of the past differ from those nearby",
    )


def _lost(slope: float, with_what: str, corrected: str) -> tuple[str, str]:
    """Verdict and note of a slope of ln norm against ln n."""
    if slope > FREE:
        return CONFIRMED, ""
    how = "as 1/n" if slope < LOST else "more slowly than 1/n"
    return (REFUTED if slope < LOST else QUALIFIED), f"the norm falls {how} with {with_what}; {corrected}"


def _length(ds: xr.Dataset) -> Finding:
    norms = ds["log_norm_past"].mean("past").transpose("n", "seed").values
    slope = mean(slopes(norms, ds["n"].values.astype(float)))
    most = int(ds["n"].max())
    found, note = _lost(
        slope.value, "the length, whatever the distance", "weights near 1/n share what arrives among all"
    )
    return Finding(
        "loss-free, untrained weights",
        found,
        {
            "slope of ln norm against ln n": slope,
            f"entropy of the weights over ln n, n = {most}": mean(ds["entropy"].sel(n=most)),
            f"largest weight times n, n = {most}": mean(ds["largest_weight"].sel(n=most)),
        },
        note,
    )


def _training(ds: xr.Dataset) -> Finding:
    part = "loss-free, trained to copy"
    loss = float(ds["relative_loss"].max())
    if not loss < LEARNED:
        return Finding(part, verdict(0, 0), {}, "needs a layer that learns to copy from every lag")
    norms = ds["log_norm_trained"].transpose("snapshot", "task_lag", "seed")
    lengths = ds["task_lag"].values + 1.0
    before, after = (mean(slopes(norms.sel(snapshot=s).values, lengths)) for s in ("before", "after"))
    far = int(ds["task_lag"].max())
    found, note = _lost(after.value, "the lag", "training does not sharpen the weights enough")
    return Finding(
        part,
        found,
        {
            "slope of ln norm at the lag needed against ln n, before": before,
            "after": after,
            f"norm at lag {far}, before": mean(np.exp(norms.sel(snapshot="before", task_lag=far))),
            f"norm at lag {far}, after": mean(np.exp(norms.sel(snapshot="after", task_lag=far))),
        },
        note,
    )


def _depth(ds: xr.Dataset) -> Finding:
    norms = ds["log_norm_far"].transpose("stream", "depth", "seed")
    last = int(ds["depth"].max())
    change = {
        stream: mean(np.exp(norms.sel(stream=stream, depth=last) - norms.sel(stream=stream, depth=1)))
        for stream in STREAMS
    }
    kept = [stream for stream, ratio in change.items() if ratio.value >= 1 / ALIKE]
    # beyond the second layer the difference between positions is soon below round-off
    spread = ds["spread"].sel(depth=2)
    return Finding(
        f"loss-free through {last} untrained layers",
        verdict(len(kept), len(STREAMS)),
        {
            f"far norm after {last} layers over that after one, stream {stream}": ratio
            for stream, ratio in change.items()
        }
        | {
            f"log10 of what tells outputs apart after 2 layers, stream {stream}": mean(
                np.log10(spread.sel(stream=stream))
            )
            for stream in STREAMS
        },
        "only on a residual stream; without one every layer loses and all positions become one"
        if kept == ["residual"]
        else "every layer loses"
        + (" on a residual stream" if kept else ", with a residual stream or without"),
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
    f"Global: at every n the norms at the far end of the past are within a factor {ALIKE:g} of those "
    "nearby. Loss-free, by the slope of ln norm against ln n, untrained over all distances and trained "
    f"at the lag the task needs: confirmed above {FREE:g}, refuted below {LOST:g}, else qualified. "
    f"Depth: a stack loses if its far norm falls below 1/{ALIKE:g} of that of one layer; confirmed if it "
    "does not, with a residual stream and without, refuted if it does in both, else qualified.",
    measure,
    judge,
    checks,
)
