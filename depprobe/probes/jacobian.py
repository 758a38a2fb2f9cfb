r"""How far does information travel: ln ||dh_t/dx_k|| over targets t and sources k.

    log_norm(target, source) = ln || J[t,k] ||,    J[t,k] = d y_t / d x_k    (d_out, d_in)

The norm is Frobenius' (``fro``) or the largest singular value (``spectral``). Which operator computes it is
decided by the module; the attributes say which ran.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike
from torch import Tensor, nn

from depprobe import store
from depprobe._version import __version__
from depprobe.core.budget import DEFAULT_MEMORY, parse_bytes, require
from depprobe.core.targets import nearest_outputs, wanted_positions
from depprobe.errors import unknown
from depprobe.operators import temporal_jacobian
from depprobe.runs.cache import Finished
from depprobe.runs.cases import Case, cases_of
from depprobe.runs.inputs import Source
from depprobe.runs.labelling import Result, labelled, stacked
from depprobe.vocabulary import NORMS, SCHEMA_VERSION

#: called with (cases done, cases in all, what is under way)
Progress = Callable[[float, int, str], None]


def jacobian(
    module: nn.Module | str | Sequence[str],
    x: Tensor | ArrayLike | Source | None = None,
    *,
    n: int = 1000,
    d: int = 512,
    targets: str | int | Sequence[int] = "last",
    wrt: str = "x",
    norm: str = "fro",
    tolerance: float = 1e-6,
    method: str = "auto",
    probes: int = 32,
    samples: int = 1,
    seeds: int = 1,
    seed: int = 0,
    dtype: str = "float64",
    device: str = "cpu",
    memory: int | str = DEFAULT_MEMORY,
    forward: Mapping[str, Any] | None = None,
    command: str | None = None,
    progress: Progress | None = None,
    finished: Finished | None = None,
) -> xr.Dataset:
    """Natural logs of the norms of the temporal Jacobian, as a labelled dataset.

    Parameters
    ----------
    module : your ``nn.Module``; or the spec string of a named layer (``"lstm:forget_bias=2"``), or several.
    x : (n, d_in), or (samples, n, d_in), tensor or array; needed with a module. With spec strings also a
        ``depprobe.runs.inputs.Source``; by default seeded noise, x ~ N(0, 1).
    n, d : length and width, for spec strings; a module and its input bring their own.
    targets : output positions t, by the input position they sit at: ``last``, ``all``, ``every:M``, a list.
    wrt : ``x`` the input, ``h`` or ``c`` the earlier state of a recurrent module (the pair it carries from
        step to step, the other held; of a stack, all its layers).
    norm : ``fro`` or ``spectral``.
    tolerance : relative error that compression may cause (default 1e-6); 0 for no compression.
    method : ``auto``, ``structured``, ``autograd`` or ``probes``.
    probes : number of random probes for ``method="probes"``.
    samples : number of inputs, for spec strings (windows of a file, or draws of noise); same weights.
    seeds : number of draws of the weights, from ``seed`` on, for spec strings.
    seed : fixes the weights, then the input.
    dtype, device : of named layers; a module keeps its own.
    memory : budget in bytes, or a size such as ``"4GiB"``.
    forward : further arguments of the module's forward, such as ``attn_mask``.
    command : what to record as the command; the call itself by default.
    progress : called with (cases done, cases in all, what is under way).
    finished : where to keep finished cases of named layers, and take them up from.

    Returns
    -------
    Dataset with ``log_norm(target, source)`` (preceded by ``layer``, ``seed``, ``sample`` where there are
    several), or ``log_norm(target, lag)`` from banded operators with several targets; ``log_norm_error``
    where a compressed sweep measured its own error, ``log_norm_stderr`` where random probes estimated.
    -inf is an exact zero; NaN a zero that cannot be told from an underflow below ``log_floor``.

    Raises
    ------
    BadInput : anything in the call is not as above; the message names it.
    OverBudget : the job would need more memory than the budget.

    Examples
    --------
    >>> ds = jacobian("lstm", n=30, d=5)
    >>> ds.log_norm.dims, ds.method
    (('target', 'source'), 'chain')
    """
    if norm not in NORMS:
        raise unknown("norm", norm, NORMS)
    budget = parse_bytes(memory) if isinstance(memory, str) else memory
    measured = cases_of(
        module, x, n, d, samples=samples, seeds=seeds, seed=seed, dtype=dtype, device=device, memory=budget
    )
    labels, seed_values, cases = measured

    options = {"wrt": wrt, "method": method, "tolerance": tolerance, "probes": probes, "memory": budget}
    length = cases[0].x.shape[0]
    count = len(wanted_positions(targets, length))
    require(
        24.0 * count * length * len(cases),
        budget,
        f"the result ({len(cases)} x {count} x {length} norms)",
        "ask for fewer targets (last, every:M), or fewer layers, samples or seeds",
    )
    results = []
    for done, case in enumerate(cases):
        facts = {
            "layer": case.label,
            "seed": case.seed,
            "n": length,
            "d": d,
            "dtype": dtype,
            "targets": targets,
        }
        facts |= {"norm": norm, "version": __version__, **options, "compared": len(labels) > 1}
        plain = case.x.detach().cpu().numpy()
        result = finished.get(facts, plain) if finished else None
        if result is None:
            result = _measure(
                case, targets, norm, options, forward, progress, done, len(cases), len(labels) > 1
            )
            if finished:
                finished.put(facts, plain, result)
        results.append(result)
    if progress:
        progress(len(cases), len(cases), "")
    ds = labelled(results, labels, seed_values, cases[0].x.dtype)
    inputs = [case.x.detach().cpu().numpy() for case in cases]
    ds.attrs |= {
        "title": f"Temporal Jacobian of {', '.join(labels)}",
        "norm": norm,
        "wrt": wrt,
        "layer": ", ".join(labels),
        "n": length,
        # a module's own width is what it puts out, a named layer's is what it was built with
        "d": results[0].shape[1] if isinstance(module, nn.Module) else d,
        "seed": seed,
        "dtype": str(cases[0].x.dtype).removeprefix("torch."),
        "depprobe_version": __version__,
        "schema_version": SCHEMA_VERSION,
        "provenance": store.provenance(
            command or f"depprobe.jacobian({', '.join(labels)})",
            np.concatenate([one.ravel() for one in inputs]),
            **({"input_projection": "fixed random"} if any(case.projected for case in cases) else {}),
        ),
    }
    return ds


def _measure(
    case: Case,
    targets: str | int | Sequence[int],
    norm: str,
    options: dict[str, Any],
    forward: Mapping[str, Any] | None,
    progress: Progress | None,
    done: int,
    total: int,
    compared: bool,
) -> Result:
    if progress:
        progress(done, total, case.label)
    x = case.x
    operator = temporal_jacobian(
        case.build(), x, seed=case.seed, batched=case.batched, forward=forward, **options
    )
    position = np.asarray(operator.position, dtype=np.float64)
    if compared:
        # layers that shorten the sequence answer for the same input positions as the others
        target = wanted_positions(targets, x.shape[0])
        chosen = nearest_outputs(target, position)
    else:
        target = chosen = wanted_positions(targets, len(position))
    parts = []
    # a hundred parts are enough to see progress by, and few enough to leave large products whole
    size = max(operator.targets_at_once, math.ceil(len(chosen) / 100))
    for part in (chosen[first : first + size] for first in range(0, len(chosen), size)):
        parts.append(operator.log_norms(part.tolist(), None, norm))
        if progress:
            progress(done + sum(len(p.values) for p in parts) / len(chosen), total, case.label)
    return Result(
        stacked(parts, position[chosen], x.shape[0]),
        target,
        position[chosen],
        operator.method,
        operator.tolerance,
        operator.shape,
    )
