r"""C10: whether a convolution before attention makes it three times faster.

    attention             h = W_O softmax(q k^T) v of x
    conv-attention        the same of conv(x), as printed; or of conv(x) at every s-th position

Times are processor seconds of passes taken in turn, of the layer alone and of a classifier (mean over
positions, a linear read-out) in training. The counts and the rule of each verdict: ``hybrid_factors``.
Shapes: x (n, d), 8 heads, batch 1, float32. Source: Vaswani et al. 2017 (attention).
"""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import xarray as xr

from depprobe.ledger.claim import Claim
from depprobe.ledger.costs.hybrid_factors import (
    ALONE,
    HEADS,
    LAYERS,
    PRINTED,
    STATED,
    STRIDES,
    factor,
    of_kernels,
    of_printed,
    of_strides,
)
from depprobe.ledger.evidence import About, evidence
from depprobe.ledger.progress import Progress
from depprobe.ledger.verdicts import SHAKEN

#: (lengths, d, rounds)
QUICK, FULL = ((256, 1024), 128, 5), ((512, 1024, 2048, 4096), 512, 5)


def measure(quick: bool, progress: Progress | None = None, seed: int = 0) -> xr.Dataset:
    """Seconds (layer, n, phase, round), FLOPs and bytes; and seconds of a step of a classifier's training."""
    import torch
    from torch import nn

    from depprobe.costs.flops import count_flops
    from depprobe.costs.interleaved_timing import interleaved_seconds
    from depprobe.costs.memory import tensor_bytes
    from depprobe.costs.passes import BACKWARD, PHASES, one_pass
    from depprobe.registry import Spec, layers

    class Classifier(nn.Module):
        def __init__(self, layer: nn.Module, d: int) -> None:
            super().__init__()
            self.layer, self.readout = layer, nn.Linear(d, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.readout(self.layer(x).mean(-2, keepdim=True))

    lengths, d, rounds = QUICK if quick else FULL
    shape = (len(LAYERS), len(lengths), len(PHASES))
    times, classifying = np.empty((*shape, rounds)), np.empty((*shape[:2], rounds))
    flops, peak = np.empty(shape), np.empty(shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = [
            layers[spec.name].build(d, heads=HEADS, **spec.options()).eval()
            for spec in map(Spec.parse, LAYERS)
        ]
        for j, n in enumerate(lengths):
            if progress:
                progress(sum(lengths[:j]), sum(lengths), f"n = {n}")
            x = torch.randn(n, d)
            for p, phase in enumerate(PHASES):
                for i, module in enumerate(built):
                    flops[i, j, p] = count_flops(module, x, backward=phase == BACKWARD)
                    peak[i, j, p] = tensor_bytes(module, x, phase).peak
                taken = interleaved_seconds(
                    {str(i): one_pass(module, x, phase) for i, module in enumerate(built)}, rounds
                )
                times[:, j, p] = list(taken.values())
            steps = {str(i): one_pass(Classifier(module, d), x, BACKWARD) for i, module in enumerate(built)}
            classifying[:, j] = list(interleaved_seconds(steps, rounds).values())
    over, training = (
        "layer n phase",
        "processor time of forward and backward through a classifier, one thread",
    )
    title = "Attention alone and after a convolution"
    return evidence(
        About("C10", title, (ALONE, PRINTED), max(lengths), d, quick, seed),
        {
            "flops": (over, flops),
            "peak_bytes": (over, peak),
            "pass_time": (f"{over} round", times, "processor time of a pass, one thread", "s"),
            "classifier_time": ("layer n round", classifying, training, "s"),
        },
        {"layer": LAYERS, "n": lengths, "phase": PHASES, "round": range(rounds)},
        dtype="float32",
        heads=HEADS,
    )


def checks(ds: xr.Dataset) -> list[str]:
    """Counted FLOPs follow the formulas, and take three times as many with the backward pass."""
    faults, d = [], int(ds.attrs["d"])
    flops = ds["flops"].transpose("layer", "n", "phase")
    for stride, n in product((1, *STRIDES), map(int, ds["n"].values)):
        name = PRINTED if stride == 1 else f"conv-attention:stride={stride}"
        alone, hybrid = (flops.sel(layer=layer, n=n).values for layer in (ALONE, name))
        if not math.isclose(alone[0] / hybrid[0], factor(n, d, stride), rel_tol=1e-12):
            faults.append(f"the FLOPs of {name} at n = {n} are not those of its formula")
        if (hybrid[1:] != 3 * hybrid[0]).any():
            faults.append(f"{name} at n = {n} does not take 3 times its FLOPs with the backward pass")
    return faults


CLAIM = Claim(
    "C10",
    "A Conv1d (same padding) followed by nn.MultiheadAttention (8 heads), output returned, is 3 times "
    "faster than attention alone on long-text classification.",
    "Numbers are those of attention alone over the hybrid's, times of passes taken in turn: the median, "
    f"and half the distance of the quartiles. Confirmed if a factor of {STATED:g} is reached at every "
    "length and pass (forward, forward and backward, classifier), refuted at none, qualified in between; "
    "the same for strides over lengths, and for fused against written-out attention. Not measured here "
    f"where the quartiles of the rounds, and {SHAKEN - 1:.0%} beyond them, would change the verdict.",
    measure,
    {
        "as printed (stride 1), 3 times faster than attention alone": of_printed,
        "a convolution with a stride, which shortens the sequence, makes it 3 times faster": of_strides,
        "with a fused kernel it is 3 times faster than attention that writes its weights out": of_kernels,
    },
    checks,
)
