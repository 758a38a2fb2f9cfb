r"""Does the gate's highway carry the gradient: the product of forget gates beside the true Jacobian.

    LSTM   dc_t/dc_k = diag(prod_{i=k+1..t} f_i) + every path through h and the recurrent weights
    GRU    dh_t/dh_k = diag(prod_{i=k+1..t} z_i) + every path through the recurrent weights

Shapes: f, z (n, d). The product is a cumulative sum of ln sigma(argument), the true norm a row swept
backwards (``operators.chain.operator``), so neither underflows. A unit's time constant is -1 / mean_t ln f_t.
Source: Hochreiter and Schmidhuber 1997; Gers et al. 2000; Tallec and Ollivier 2018 (time constants).
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

from depprobe.core.calling.weights_in_effect import recurrence_in_effect
from depprobe.core.options import DEFAULT_MEMORY, plain_modes, require, wanted_positions
from depprobe.core.scaled import log_norm_of_logs
from depprobe.errors import BadInput
from depprobe.operators.chain.kinds.gated import GatedChain
from depprobe.operators.chain.kinds.gru import GRUChain
from depprobe.operators.chain.kinds.lstm import LSTMChain
from depprobe.operators.chain.operator import chain_norms
from depprobe.operators.chain.trajectories import step_chains
from depprobe.runs.cache import Holding, Place, holding
from depprobe.runs.cases import Case, Progress, Report, cases_of, collect
from depprobe.runs.identity import identity_of
from depprobe.runs.inner_recurrence import at_recurrences
from depprobe.runs.labelling import over_cases, with_origin
from depprobe.runs.subject import Request, asks
from depprobe.units import counted

#: dimensions of each variable, after (layer, seed, sample)
_DIMS: dict[str, tuple[str, ...]] = {
    "log_gate_product": ("source", "unit"),
    "gate_value": ("gate", "target", "unit"),
    "time_constant": ("unit",),
    "hold_share": ("lag",),
}


@plain_modes()
@asks(
    part="text",
    depth="a whole number",
    hold_h="true or false",
    tolerance="a number",
    lags="a list",
    command="text",
    progress="a function",
)
def gates(
    module: Any,
    x: Any = None,
    *,
    n: int | None = None,
    d: int | None = None,
    target: str | int = "last",
    part: str | None = None,
    depth: int = 0,
    hold_h: bool = False,
    lags: Sequence[int] | None = None,
    tolerance: float = 1e-6,
    samples: int | None = None,
    seeds: int | None = None,
    seed: int = 0,
    dtype: str | None = None,
    device: str | None = None,
    memory: int | str = DEFAULT_MEMORY,
    command: str | None = None,
    progress: Progress | None = None,
    finished: Place | None = None,
) -> xr.Dataset:
    """Norms of the true Jacobian of a gated state beside the product of its gates, at every lag.

    Parameters
    ----------
    module : ``nn.LSTM`` or ``nn.GRU`` in one direction, trained or not, or a model that holds one; the spec
        string of such a named layer (``"lstm:forget_bias=2"``), or several of one kind; a factory of them, or
        a mapping from labels.
    x, n, d, samples, seeds, seed, dtype, device, memory, command, progress, finished : as for
        ``depprobe.jacobian``; x is what the module reads.
    target : position t at which the rows end, or ``last``.
    part : name of the recurrence in a model that holds several; it is measured at what the model hands it.
    depth : the stacked layer measured, 0 being the bottom one.
    hold_h : whether h_k stays as it is when c_k moves (LSTM). By default h_k = o_k tanh(c_k) moves with it,
        as in backpropagation; held, as in ``jacobian(wrt="c")``, the first step has no path but the gate.
    lags : lags for which to give the share of units that hold longer; powers of ten up to n by default.
    tolerance : relative error that compression may cause (default 1e-6); 0 for no compression.

    Returns
    -------
    Dataset, over (layer, seed, sample) where there are several, with

    - natural logs of Frobenius norms for sources k = 0 .. t: ``log_norm_cc(source)`` of dc_t/dc_k,
      ``log_norm_hc(source)`` of dh_t/dc_k, or ``log_norm_hh(source)`` of dh_t/dh_k for a GRU, each with a
      measured bound ``..._error`` on what compression changed; ``log_norm_product(source)`` of the diagonal
      product of the carrying gate, ``log_gate_product(source, unit)`` of each unit; ``log_gap(source)``,
      true minus product. -inf is an exact zero; NaN a zero that cannot be told from an underflow.
    - over all n positions: ``gate_value(gate, target, unit)`` for i, f, g, o, or r, z, n;
      ``time_constant(unit)`` in steps; ``hold_share(lag)``, the share of units whose time constant exceeds
      the lag.

    Raises
    ------
    BadInput : a layer without gates or with two directions; anything else in the call is not as above.
    OverBudget : the job would need more memory than the budget.

    Examples
    --------
    >>> ds = gates("lstm:forget_bias=4", n=30, d=5)
    >>> ds.log_norm_cc.dims, ds.gate_value.sizes["gate"], bool(ds.log_gate_product.max() <= 0)
    (('source',), 4, True)
    """
    if not 0 <= tolerance < 1:
        raise BadInput(f"tolerance must lie in [0, 1), not {tolerance}")
    asked = Request(n, d, samples, seeds, seed, dtype, device, memory)
    measured = at_recurrences(cases_of(module, x, asked), part)
    length = len(measured.cases[0].x)
    at = wanted_positions(target, length)
    if len(at) != 1:
        raise BadInput(f"gates are measured at one target (last, or a position), not {target!r}")
    t = int(at[0])
    wanted = _lags(lags, length)
    # before anything is measured, and kept
    _check_of_one_kind(measured.cases, depth, hold_h)

    def measure(case: Case, report: Report) -> dict[str, Any]:
        chain = _chain(case, depth, hold_h, asked.memory, len(measured.cases))
        return _measure(chain, t, wanted, hold_h, tolerance)

    def facts(case: Case) -> dict[str, Any]:
        known = {"layer": case.label, "seed": case.seed, "d": asked.of("d"), "dtype": asked.of("dtype")}
        known |= {"target": t, "depth": depth, "hold_h": hold_h, "lags": wanted, "tolerance": tolerance}
        return known | {"probe": "gates"} | identity_of(case)

    kept: Holding[dict[str, Any]] | None = holding(finished)
    results = collect(
        measured.cases, measure, name=lambda case: case.label, progress=progress, kept=kept, facts=facts
    )
    gates = [tuple(map(str, one.pop("gates"))) for one in results]
    keepers = [str(one.pop("keeper")) for one in results]
    sizes = {"source": t + 1, "target": length, "unit": len(results[0]["time_constant"])}
    coords: dict[str, Any] = {name: np.arange(size) for name, size in sizes.items()}
    coords |= {"gate": list(gates[0]), "lag": wanted}
    dims = {name: _DIMS.get(name, ("source",)) for name in sorted(results[0])}
    ds = over_cases([{name: one[name] for name in dims} for one in results], dims, measured.lead, coords)
    return with_origin(
        ds,
        "Gates",
        measured,
        command or f"depprobe.gates({measured.named})",
        wrt="h" if "log_norm_hh" in ds else "c" if hold_h else "cell",
        norm="fro",
        method="chain",
        tolerance=tolerance,
        target=t,
        depth=depth,
        keeper=keepers[0],
        n=length,
        d=ds.sizes["unit"],
        seed=seed,
        **({} if part is None else {"part": part}),
    )


def _check_of_one_kind(cases: Sequence[Case], depth: int, hold_h: bool) -> None:
    one_of_each = {case.label: case for case in cases}
    if len(one_of_each) == 1:  # need not be built for this
        return
    modules = {label: _recurrence(case, depth, hold_h) for label, case in one_of_each.items()}
    kinds = {
        label: (LSTMChain if isinstance(module, nn.LSTM) else GRUChain).gates
        for label, module in modules.items()
    }
    first, names = next(iter(kinds.items()))
    for label, others in kinds.items():
        if others != names:
            raise BadInput(
                f"{first} and {label} have different gates ({', '.join(names)} and {', '.join(others)}); "
                "measure them one kind at a time"
            )
    widths = {label: module.hidden_size for label, module in modules.items()}
    if len(set(widths.values())) > 1:
        said = ", ".join(f"{label} {width}" for label, width in widths.items())
        raise BadInput(f"gates are compared unit by unit, so that layers need one width, not {said}")


def _lags(lags: Sequence[int] | None, n: int) -> list[int]:
    if lags is None:
        return [10**power for power in range(len(str(n)))]
    given = list(lags)
    whole = all(isinstance(lag, Real) and lag == int(lag) >= 1 for lag in given)
    if not given or not whole or sorted(set(given)) != given:
        raise BadInput(f"lags must be whole numbers of at least 1, each larger than the last, not {given}")
    return [int(lag) for lag in given]


def _recurrence(case: Case, depth: int, hold_h: bool) -> nn.LSTM | nn.GRU:
    built = case.build()
    module = recurrence_in_effect(built)
    if not isinstance(module, nn.LSTM | nn.GRU):
        changed = " with a forward or hooks of its own" if isinstance(built, nn.LSTM | nn.GRU) else ""
        raise BadInput(f"{case.label}{changed} has no gates to read; gates needs an nn.LSTM or nn.GRU")
    if module.bidirectional:
        raise BadInput(f"{case.label} reads in both directions; gates needs bidirectional=false")
    if not 0 <= depth < module.num_layers:
        last = module.num_layers - 1
        which = f"lie between 0 and {last} for {case.label}" if last else f"be 0 ({case.label} has one layer)"
        raise BadInput(f"depth must {which}, not {depth}")
    if hold_h and isinstance(module, nn.GRU):
        raise BadInput(f"hold_h needs a cell state and {case.label} has none; leave it out")
    return module


def _chain(case: Case, depth: int, hold_h: bool, budget: int, cases: int) -> GatedChain:
    module = _recurrence(case, depth, hold_h)
    # what all cases give, and a copy of it
    size = 80.0 * cases * len(case.x) * module.hidden_size
    what = f"gates at {len(case.x)} positions of {counted(cases, 'case')}"
    require(size, budget, what, "use a smaller n or d, or fewer layers, samples or seeds")
    chain = step_chains(module, case.x, memory=budget)[depth][0]
    assert isinstance(chain, GatedChain)
    return chain


def _measure(chain: GatedChain, t: int, lags: list[int], hold_h: bool, tolerance: float) -> dict[str, Any]:
    log_keep = chain.log_keep().cpu().numpy()
    # from t downwards, so that short lags are not small differences of large sums
    product = np.zeros((t + 1, log_keep.shape[1]))
    product[:-1] = np.cumsum(log_keep[t:0:-1], 0)[::-1]
    rate = log_keep.mean(0)
    with np.errstate(divide="ignore"):
        # a gate that is 1 in floats has the rate 0, and holds for ever
        time_constant = 1 / np.abs(rate)
    found: dict[str, Any] = {
        "gates": list(chain.gates),
        "keeper": chain.keeper,
        "log_norm_product": log_norm_of_logs(torch.from_numpy(product), (1,))[:, 0].numpy(),
        "log_gate_product": product,
        "gate_value": chain.gate_values().cpu().numpy(),
        "time_constant": time_constant,
        "hold_share": (time_constant[:, None] > np.array(lags)).mean(0),
    }
    paths = ("cc", "hc") if chain.d_c else ("hh",)
    wrt = "h" if not chain.d_c else "c" if hold_h else "cell"
    for name in paths:
        (values,), (error,), _ = chain_norms([chain], [t], 0, wrt, "fro", tolerance, name[0])
        found[f"log_norm_{name}"] = values[: t + 1]
        found[f"log_norm_{name}_error"] = error[: t + 1]
    found["log_gap"] = found[f"log_norm_{paths[0]}"] - found["log_norm_product"]
    return found
