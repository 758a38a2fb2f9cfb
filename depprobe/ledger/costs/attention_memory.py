r"""C5: what memory attention takes at n = 5000, by how it is computed.

    explicit weights   scores and their softmax, heads n^2 numbers each, and the gradients of both
    fused              blocks of them at a time: a few n d numbers

Bytes are the most alive at once, parameters and input included, as an allocator of a device would say; found
from shapes alone, float32, batch 1, d = 512. At the shortest length they are those of a real pass.
Source: Dao et al. 2022 (fused attention).
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import xarray as xr

from depprobe.ledger.claim import CONFIRMED, QUALIFIED, REFUTED, Claim, Finding, Measured, Progress
from depprobe.ledger.evidence import About, evidence
from depprobe.registry import Spec, layers
from depprobe.runs.cases import cases_of_specs

VARIANTS = ("attention:fused=false", "attention:heads=1,fused=false", "attention")
PHASES = ("forward", "forward+backward")
LENGTHS, WIDTH = (1000, 2000, 5000), 512
#: bytes that the article gives, by length
ARTICLE = {1000: 210e6, 5000: 500e6}
#: a number of bytes is that of the article within this factor
NEAR = 1.5


def measure(quick: bool, progress: Progress | None = None, seed: int = 0) -> xr.Dataset:
    """Bytes over (layer, n, phase); ``quick`` and not are the same but for the length that is really run."""
    import torch

    from depprobe.costs.memory import parameter_bytes, predicted_bytes, tensor_bytes

    shape = (len(VARIANTS), len(LENGTHS), len(PHASES))
    found, real = np.empty(shape), np.full(shape, math.nan)
    run = LENGTHS[:1] if quick else LENGTHS[:2]
    for done, at in enumerate(np.ndindex(shape)):
        text, n, phase = VARIANTS[at[0]], LENGTHS[at[1]], PHASES[at[2]]
        if progress:
            progress(done, math.prod(shape), f"{text} n={n}")
        spec = Spec.parse(text)
        build = partial(layers[spec.name].build, WIDTH, **spec.options())
        known = predicted_bytes(build, n, WIDTH, torch.float32, phase)
        found[at] = math.nan if known is None else known
        if n in run:
            (case,) = cases_of_specs([text], None, n, WIDTH, 1, [seed], "float32", "cpu")
            module = case.build()
            real[at] = tensor_bytes(module, case.x, phase).peak + parameter_bytes(module) + case.x.nbytes
    over = ("layer", "n", "phase")
    return evidence(
        About(
            "C5",
            "Memory of attention, weights written out and fused",
            ", ".join(VARIANTS),
            max(LENGTHS),
            WIDTH,
            quick,
            seed,
        ),
        {
            "predicted_bytes": (over, found, "most bytes alive, by shapes", "B"),
            "measured_bytes": (over, real, "most bytes alive, in a real pass", "B"),
        },
        {"layer": list(VARIANTS), "n": list(LENGTHS), "phase": list(PHASES)},
    ).assign_attrs(dtype="float32")


def growth(ds: xr.Dataset) -> xr.DataArray:
    """Bytes at the longest length over those at the shortest."""
    return ds["predicted_bytes"].sel(n=5000, drop=True) / ds["predicted_bytes"].sel(n=1000, drop=True)


def _cases(values: xr.DataArray) -> dict[str, float]:
    return {
        f"{layer}, {phase}": float(values.sel(layer=layer, phase=phase))
        for layer in VARIANTS
        for phase in PHASES
    }


def _near(value: float, wanted: float) -> bool:
    return abs(math.log(value / wanted)) <= math.log(NEAR)


def judge(ds: xr.Dataset) -> list[Finding]:
    """500 MB at n = 5000; and the growth from 210 MB at n = 1000."""
    at = _cases(ds["predicted_bytes"].sel(n=5000))
    near = [name for name, value in at.items() if _near(value, ARTICLE[5000])]
    verdict = CONFIRMED if len(near) == len(at) else QUALIFIED if near else REFUTED
    findings = [
        Finding(
            "attention at n = 5000 takes 500 MB",
            verdict,
            {name: Measured(value / 1e6, unit="MB") for name, value in at.items()},
            f"it depends on which: within a factor {NEAR:g} is {' and '.join(near)}"
            if near
            else f"none measured here is within a factor {NEAR:g}",
        )
    ]
    stated = ARTICLE[5000] / ARTICLE[1000]
    grown = _cases(growth(ds))
    alike = [name for name, value in grown.items() if _near(value, stated)]
    verdict = CONFIRMED if len(alike) == len(grown) else QUALIFIED if alike else REFUTED
    power = {name: math.log(value) / math.log(5) for name, value in grown.items()}
    per_pair = (ARTICLE[5000] - ARTICLE[1000]) / (5000**2 - 1000**2)
    findings.append(
        Finding(
            "210 MB at n = 1000 becomes 500 MB at n = 5000",
            verdict,
            {
                "growth stated": Measured(stated),
                **{f"growth, {name}": Measured(value) for name, value in grown.items()},
            },
            f"bytes grow as n^{min(power.values()):.2f} (fused) to n^{max(power.values()):.2f} (weights "
            f"written out), the stated ones as n^{math.log(stated) / math.log(5):.2f}: they fit "
            f"{(ARTICLE[1000] - per_pair * 1e6) / 1e6:.0f} MB that do not grow and {per_pair:.0f} bytes a "
            "pair of positions",
        )
    )
    return findings


def checks(ds: xr.Dataset) -> list[str]:
    """Shapes tell the bytes of a real pass; written out, twice the weights are alive at least."""
    faults = []
    known = ds["measured_bytes"].notnull()
    off = float(abs(ds["predicted_bytes"] / ds["measured_bytes"] - 1).where(known).max())
    if not off < 0.02:
        faults.append(f"bytes found from shapes are not those of a real pass: they differ by {off:.1%}")
    for layer, heads in ((VARIANTS[0], 8), (VARIANTS[1], 1)):
        if (ds["predicted_bytes"].sel(layer=layer) < 2 * 4 * heads * ds["n"] ** 2).any():
            faults.append(f"{layer} takes less than its scores and weights")
    return faults


CLAIM = Claim(
    "C5",
    "Attention over n = 5000 positions takes 500 MB (d = 512; the table has 210 MB at n = 1000).",
    "Measured with weights written out (8 heads, 1 head) and fused, forward and with the backward pass. "
    "The number is confirmed if all are within a factor 1.5 of it, qualified if some are, refuted if "
    "none; so is the growth from n = 1000 to 5000.",
    measure,
    judge,
    checks,
)
