r"""C3: what one step of an LSTM costs, gate by gate and in its updates.

    a_g = W_g x_t + U_g h_{t-1} + b_g             g = i, f, g, o: 2 (d d_h + d_h^2) FLOPs of products each
    c_t = f c_{t-1} + i g,  h_t = o tanh(c_t)     five numbers a unit

Counted while a step written as these equations runs: FLOPs of products, and numbers that elementwise
operations give. The step is that of ``nn.LSTMCell``. Shapes: x (d,), h and c (d_h,), W_g (d_h, d).
Source: Hochreiter and Schmidhuber 1997; Gers et al. 2000.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from depprobe.ledger.claim import Claim, Measured, definition
from depprobe.ledger.evidence import About, evidence
from depprobe.ledger.progress import Progress, tracked

if TYPE_CHECKING:
    from torch import Tensor, nn

GATES, UPDATES = ("i", "f", "g", "o"), ("cell", "hidden")
#: (widths of input, widths of state, seconds to time for)
QUICK = ((32, 96, 300), (64, 128, 256, 512), 0.02)
FULL = ((32, 96, 300, 1024), (64, 128, 256, 512, 1024), 0.2)
#: multiply-adds of an LSTM 300 -> 512 of two layers at n = 100
PUBLISHED = 376_012_800
EXACT = 1e-6

#: called with the name of a part before it runs
Watch = Callable[[str], Any]


def step(cell: nn.LSTMCell, x: Tensor, h: Tensor, c: Tensor, watch: Watch) -> tuple[Tensor, Tensor]:
    """One step by the equations; ``watch(part)`` is a context that each part runs in."""
    import torch

    rows = cell.hidden_size
    gates = []
    for k, name in enumerate(GATES):
        part = slice(k * rows, (k + 1) * rows)
        with watch(name):
            a = x @ cell.weight_ih[part].T + h @ cell.weight_hh[part].T
            a = a + cell.bias_ih[part] + cell.bias_hh[part]
            gates.append(torch.tanh(a) if name == "g" else torch.sigmoid(a))
    i, f, g, o = gates
    with watch("cell"):
        c = f * c + i * g
    with watch("hidden"):
        h = o * torch.tanh(c)
    return h, c


def counted(d_in: int, d: int) -> dict[str, tuple[int, int]]:
    """Of each part of a step: FLOPs of products, and numbers that elementwise operations give."""
    import torch
    from torch import nn
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import FlopCounterMode, flop_registry

    class Elements(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(
            self, function: Any, types: Any, arguments: Any = (), keywords: Any = None
        ) -> Any:
            made = function(*arguments, **(keywords or {}))
            if not function.is_view and function.overloadpacket not in flop_registry:
                self.numbers += made.numel()
            return made

    found: dict[str, tuple[int, int]] = {}

    @contextmanager
    def watch(part: str) -> Iterator[None]:
        with FlopCounterMode(display=False) as flops, Elements() as elements:
            yield
        found[part] = (int(flops.get_total_flops()), elements.numbers)

    with torch.device("meta"), torch.no_grad():
        cell = nn.LSTMCell(d_in, d)
        step(cell, torch.empty(1, d_in), torch.empty(1, d), torch.empty(1, d), watch)
    return found


def measure(quick: bool, progress: Progress | None = None, seed: int = 0) -> xr.Dataset:
    """Counts over (gate, d_in, d) and (quantity, d_in, d); the published LSTM; time of updates in a step."""
    import torch
    from torch import nn

    from depprobe.costs.flops import count_flops

    inputs, widths, least = QUICK if quick else FULL
    shape = (len(inputs), len(widths))
    parts = {name: np.zeros((2, *shape)) for name in (*GATES, *UPDATES)}
    gap, share = np.zeros(shape), np.zeros((3, *shape))
    for at in tracked(np.ndindex(shape), progress, lambda at: f"d_in={inputs[at[0]]} d={widths[at[1]]}"):
        d_in, d = inputs[at[0]], widths[at[1]]
        for name, numbers in counted(d_in, d).items():
            parts[name][:, *at] = numbers
        generator = torch.Generator().manual_seed(seed)
        cell = nn.LSTMCell(d_in, d, dtype=torch.float64)
        with torch.no_grad():
            for weight in cell.parameters():
                weight.uniform_(-1, 1, generator=generator).div_(math.sqrt(d))
            x, h, c = (
                torch.randn(1, size, dtype=torch.float64, generator=generator) for size in (d_in, d, d)
            )
            pairs = zip(step(cell, x, h, c, nullcontext), cell(x, (h, c)), strict=True)
            gap[at] = max(float((a - b).abs().max()) for a, b in pairs)
        share[:, *at] = _share_of_updates(d_in, d, least)
    flops, elements = np.stack([parts[name] for name in GATES], 1)
    updates = np.stack([parts[name] for name in UPDATES], 1)
    macs = count_flops(nn.LSTM(300, 512, num_layers=2), torch.zeros(100, 300)) // 2
    gate, update, over = "gate d_in d", "quantity d_in d", "d_in d"
    return evidence(
        About("C3", "Cost of one LSTM step", "lstm", 1, max(widths), quick, seed),
        {
            "flops_gate": (gate, flops, "FLOPs of a gate's products in one step", "FLOPs"),
            "elements_gate": (gate, elements, "numbers by elementwise operations of a gate", "1"),
            "flops_update": (update, updates[0], "FLOPs of products in an update", "FLOPs"),
            "elements_update": (update, updates[1], "numbers of an update", "1"),
            "share": (over, share[0], "share of the updates in the time of a step", "1"),
            "share_low": (over, share[1], "lower end of share, by quartiles", "1"),
            "share_high": (over, share[2], "upper end of share, by quartiles", "1"),
            "step_gap": (over, gap, "largest difference from nn.LSTMCell", "1"),
            "macs": ("", macs, "multiply-adds of an LSTM 300 -> 512, 2 layers, n = 100", "1"),
        },
        {"gate": GATES, "quantity": UPDATES, "d_in": inputs, "d": widths},
    )


def _share_of_updates(d_in: int, d: int, least: float) -> tuple[float, float, float]:
    """Time of both updates over that of the step, at one thread, with the ends that quartiles allow."""
    import torch
    from torch import nn

    from depprobe.costs.timing import seconds

    cell = nn.LSTMCell(d_in, d)
    x, h, c, i, f, g, o = (torch.randn(1, size) for size in (d_in, *[d] * 6))
    with torch.no_grad():
        whole = seconds(lambda: step(cell, x, h, c, nullcontext), 1, least)
        part = seconds(lambda: o * torch.tanh(f * c + i * g), 1, least)
    return part.median / whole.median, part.low / whole.high, part.high / whole.low


def _gates(ds: xr.Dataset) -> dict[str, Measured]:
    """Coefficients of d d_h and d_h^2 in the count of a gate, and the largest residual of all gates."""
    d_in, d = (x.values.ravel().astype(float) for x in xr.broadcast(ds["d_in"], ds["d"]))
    X = np.stack([d_in * d, d**2], axis=1)
    y = ds["flops_gate"].transpose("gate", "d_in", "d").values.reshape(len(GATES), -1)
    coefficients = np.array([np.linalg.lstsq(X / one[:, None], np.ones(len(one)))[0] for one in y])
    return {
        "FLOPs / d d_h": Measured(float(coefficients[-1, 0])),
        "FLOPs / d_h^2": Measured(float(coefficients[-1, 1])),
        "largest relative residual": Measured(float(np.abs(coefficients @ X.T / y - 1).max())),
    }


def _updates(ds: xr.Dataset) -> dict[str, Measured]:
    per_unit = ds["elements_update"].sum("quantity") / ds["d"]
    widest = ds.sel(d=ds["d"].max(), d_in=ds["d_in"].max())
    elements = float(widest["elements_update"].sum())
    own = elements / (elements + float(widest["flops_gate"].sum() + widest["elements_gate"].sum()))
    return {
        "operations a unit": Measured(float(per_unit.mean())),
        f"share of a step's operations at d = {int(widest['d_in'])}, d_h = {int(widest['d'])}": Measured(own),
        "share of its time": Measured(float(widest["share"])),
    }


def checks(ds: xr.Dataset) -> list[str]:
    """The step is that of torch, and the LSTM of the published count takes as many multiply-adds."""
    faults = []
    if not _gates(ds)["largest relative residual"].value < EXACT:
        faults.append("d d_h and d_h^2 do not make up the count of every gate")
    per_unit = (ds["elements_update"].sum("quantity") / ds["d"]).values
    if np.ptp(per_unit) > EXACT or ds["flops_update"].any():
        faults.append("operations of the updates are not in proportion to d_h")
    if float(ds["step_gap"].max()) > 1e-12:
        faults.append(f"the step is not that of nn.LSTMCell: it differs by {float(ds['step_gap'].max()):.1e}")
    if int(ds["macs"]) != PUBLISHED:
        faults.append(f"an LSTM 300 -> 512, 2 layers, n = 100 counts {int(ds['macs'])}, not {PUBLISHED}")
    return faults


CLAIM = Claim(
    "C3",
    "One LSTM step costs O(d d_h + d_h^2) a gate and O(d_h) for the cell and hidden updates, with d the "
    "width of the input and d_h that of the state.",
    "Both follow from the equations of the step; counts show them and prove nothing. What is measured is "
    "that the step is that of torch.",
    measure,
    {
        "O(d d_h + d_h^2) a gate": definition("a gate is two products, by (d_h, d) and (d_h, d_h)", _gates),
        "O(d_h) for the cell and hidden updates": definition("the updates are elementwise", _updates),
    },
    checks,
)
