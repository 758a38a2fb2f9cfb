r"""How far does information travel: ln ||dh_t/dx_k|| over targets t and sources k.

    log_norm(target, source) = ln || J[t,k] ||,    J[t,k] = d y_t / d x_k    (d_out, d_in)

The norm is Frobenius' (``fro``) or the largest singular value (``spectral``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from depprobe.core.calling.positions import positions_of
from depprobe.core.options import (
    DEFAULT_MEMORY,
    Options,
    check_kind,
    nearest_outputs,
    plain_modes,
    require,
    wanted_positions,
)
from depprobe.core.under_way import UnderWay
from depprobe.errors import BadInput
from depprobe.operators import LogNorms, TemporalJacobian
from depprobe.operators.dispatch import jacobians_at_depths, options_given
from depprobe.runs.cache import Place, fields_of_results, holding, results_of
from depprobe.runs.cases import Point, Progress, Report, along_depth, cases_of, collect
from depprobe.runs.identity import digest_of, identity_of
from depprobe.runs.labelling import labelled, over_sources, stacked, with_origin
from depprobe.runs.module_inputs import real_positions
from depprobe.runs.padding import over_the_same_targets, without_padding
from depprobe.runs.result import Result
from depprobe.runs.subject import Request, asks
from depprobe.units import counted

#: seeds of the probes of two samples lie so far apart; bytes of a norm with all that is known of it, while
#: others are measured and while the result is put together
_APART, _BYTES = 1_000_003, {"exact": (16, 48), "probes": (120, 170)}


@plain_modes()
@asks(norm="text", method="text", command="text", progress="a function")
def jacobian(
    target: Any,
    x: Any = None,
    *,
    of: str = "output",
    wrt: str = "x",
    layout: str | None = None,
    position: Any = None,
    targets: str | int | Sequence[int] | None = None,
    norm: str = "fro",
    tolerance: float | None = None,
    method: str = "auto",
    probes: int | str | None = None,
    deflate: int = 0,
    n: int | None = None,
    d: int | None = None,
    samples: int | None = None,
    seeds: int | None = None,
    seed: int = 0,
    dtype: str | None = None,
    device: str | None = None,
    memory: int | str = DEFAULT_MEMORY,
    forward: Mapping[str, Any] | None = None,
    command: str | None = None,
    progress: Progress | None = None,
    finished: Place | None = None,
) -> xr.Dataset:
    """Natural logs of the norms of the temporal Jacobian, as a labelled dataset.

    An argument that has no meaning in a call is refused by name.

    Parameters
    ----------
    target : the spec string of a named layer (``"lstm:forget_bias=2"``), or several; your ``nn.Module``,
        measured as it is; a factory, called with a seed (if it has a parameter) to draw the weights; or a
        mapping from labels to any of these, measured side by side.
    x : floats (n, d_in) or (samples, n, d_in), integer ids (n,) or (samples, n), or a mapping of keyword
        arguments of the forward; needed with a module or factory. With spec strings alone also a
        ``depprobe.runs.inputs.Source``; by default seeded noise, x ~ N(0, 1).
    of : numerator: ``output`` (of a model with named outputs its last hidden state), ``logits``, ``loss``, or
        the name of a submodule, whose output it is.
    wrt : denominator: ``x`` the input (of ids what their embedding gives); ``h`` or ``c`` the earlier state
        of a recurrent module (the pair it carries from step to step, the other held; of a stack, all its
        layers); or the name of a submodule, whose output it is. A name with stars (``"h.*"``), one level
        each, runs along the dimension ``depth``, in ``of`` or in ``wrt``; ``module:h`` is a submodule h.
    layout : axes of what the forward takes and gives: ``"b n d"``, ``"n b d"``, ``"b d n"`` or ``"n d"``; by
        default that of torch's own modules, and ``"b n d"`` of others. x is time first all the same.
    position : where outputs sit among inputs: ``same``, ``end``, ``forecast`` (n, n + 1, ...) or an array; by
        default the same where lengths agree, and the end for an output without a time axis or of length 1.
    targets : output positions t, by the input position they sit at: ``last`` (default), ``all``,
        ``every:M``, ``random:K`` (stratified), a list. With ``method="probes"`` the default is ``random:64``,
        or all where there are fewer: for a curve, many targets with one probe each serve best.
    norm : ``fro``, ``spectral``, or ``fisher``: sqrt(tr J^T F J), F the Fisher information of the softmax of
        the logits at t, of an output that holds logits (``of="output"`` means ``logits`` where named).
    tolerance : relative error that compression may cause (default 1e-6); 0 for none. Not of autograd, probes.
    method : ``auto``, ``structured``, ``autograd`` or ``probes``; all but the first insist.
    probes : number of orthonormal random probes a target for ``method="probes"``, by default 1 at the default
        targets and 32 at given ones; ``"10%"`` for as many as bring the relative standard error of a squared
        norm to that; with as many as the output is wide, norms are exact.
    deflate : how many of these are directions in which blocks are large, taken exactly, for low ranks.
    n, d : length of an input that is read or drawn (1000), and width of named layers (512).
    samples : number of inputs where they are read or drawn (windows of a file, draws of noise); same weights.
    seeds : number of draws of the weights, from ``seed`` on, of named layers and factories.
    seed : fixes the weights, then the input, then random targets and probes.
    dtype, device : of named layers (float64 on the CPU) and of what factories build (their own).
    memory : budget in bytes, or a size such as ``"4GiB"``.
    forward : further arguments of the module's forward, such as ``attn_mask``.
    command : what to record as the command; the call itself by default.
    progress : called with (cases done, cases in all, what is under way).
    finished : folder in which to keep finished cases, and to take them up from; of models they are told by
        all weights, attributes and code.

    Returns
    -------
    Dataset with ``log_norm(target, source)`` (preceded by ``layer``, ``seed``, ``sample``, ``depth`` where
    there are several), or ``log_norm(target, lag)`` from banded operators with several targets;
    ``log_norm_status``, what is known of each norm: finite, zero (-inf), or, where ``log_norm`` is NaN,
    underflow, overflow, undecided, not a number or not measured; ``log_norm_error``, what compression and
    rounding can have changed; ``log_norm_stderr``, ``log_norm_low`` and ``log_norm_high`` (95 % interval) and
    ``effective_rank`` where random probes estimated. Some norm below ``log_floor`` is not known.

    Raises
    ------
    BadInput : anything in the call is not as above; the message names it.
    OverBudget : the job would need more memory than the budget.

    Examples
    --------
    >>> ds = jacobian("lstm", n=30, d=5)
    >>> ds.log_norm.dims, ds.method
    (('target', 'source'), 'chain')
    >>> import numpy as np, torch
    >>> make = {"GRU": lambda seed: torch.nn.GRU(3, 4), "RNN": lambda seed: torch.nn.RNN(3, 4)}
    >>> jacobian(make, np.ones((9, 3)), seeds=2).log_norm.sizes["seed"]
    2
    """
    check_kind("text", of=of)
    asked = Request(n, d, samples, seeds, seed, dtype, device, memory)
    few = targets is None and method == "probes"
    drawn = (1 if few else Options.probes) if probes is None else probes
    options = {"method": method, "memory": asked.memory, "probes": drawn, "deflate": deflate, "norm": norm}
    options |= {} if tolerance is None else {"tolerance": tolerance}
    options_given(seed=seed, wrt=wrt, **options)  # refuses what none of the cases could take
    others = {"forward": forward, "probes": probes, "layout": layout, "finished": finished}
    unused = [] if method == "probes" else [("probes", "only method='probes' draws any")]
    measured = cases_of(target, x, asked, others, unused)
    compared = len(measured.labels) > 1
    points, depths = along_depth(measured.cases, of, wrt)
    if targets is None:
        targets = "random" if few else "last"
    if measured.length is not None:
        count = len(wanted_positions(targets, measured.length, seed))
        rows = sum(len(point.wrt) for point in points)
        norms = count * measured.length * rows
        held, in_all = _BYTES["probes" if method == "probes" else "exact"]
        require(
            float(in_all * norms),
            asked.memory,
            f"the result ({rows} x {count} x {measured.length} norms)",
            "ask for fewer targets (last, every:M), or fewer layers, samples or seeds",
        )
        if held * norms > asked.memory // 8:
            options["memory"] = asked.memory - held * norms

    def facts(point: Point) -> dict[str, Any]:
        case = point.case
        known = {"layer": case.label, "seed": case.seed, "d": asked.of("d"), "dtype": asked.of("dtype")}
        known |= {"of": point.of, "wrt": point.wrt, "layout": layout, "first": seed}
        known |= {"position": digest_of(position), "forward": digest_of(forward)}
        known |= {"targets": targets, "compared": compared, "tolerance": Options.tolerance}
        return known | options | identity_of(case)

    def measure(point: Point, report: Report) -> list[Result]:
        case = point.case
        operators = jacobians_at_depths(
            case.build(),
            case.given,
            point.wrt,
            of=point.of,
            forward=None if case.named else forward,
            # every sample has probes of its own
            seed=(case.seed + case.sample * _APART) % 2**63,
            layout=None if case.named else layout,
            position=position,
            copy=False,
            **options,
        )
        real = real_positions(case.given) if isinstance(case.given, Mapping) else None
        asked_for = _Wanted(case.label, targets, norm, position, compared, seed, real)
        place = (kept.folder, facts(point)) if kept else (None, {})
        under_way = UnderWay(report, *place) if kept or progress else None
        return _norms_of(operators, asked_for, under_way)

    kept = None if finished is None else holding(finished, fields_of_results, results_of)
    found = collect(points, measure, name=lambda p: p.case.label, progress=progress, kept=kept, facts=facts)
    results = [one for every_depth in found for one in every_depth]
    if any(one.tokens for one in results):
        results = over_the_same_targets(results)
    ds = labelled(results, measured, depths)
    return with_origin(
        ds,
        "Temporal Jacobian",
        measured,
        command or f"depprobe.jacobian({measured.named})",
        norm=norm,
        of="logits" if (norm, of) == ("fisher", "output") else of,
        wrt=wrt,
        n=results[0].shape[2],
        # a module's own width is what it puts out, a named layer's is what it was built with
        d=[one[0].shape[1] for one in measured.firsts(found)] if measured.own_width else asked.of("d"),
        seed=seed,
    )


class _Wanted(NamedTuple):
    """What is asked of a case.

    ``position`` is that of the outputs where the call gives it; ``compared`` whether other layers answer for
    the same input positions; ``real`` are the positions of a padded input that hold tokens, None without.
    """

    label: str
    targets: str | int | Sequence[int]
    norm: str
    position: Any
    compared: bool
    seed: int
    real: NDArray[np.int64] | None


class _Chosen(NamedTuple):
    """Positions that were asked for, the outputs that answer for them, and positions of all outputs."""

    wanted: NDArray[np.int64]
    outputs: NDArray[np.int64]
    position: NDArray[np.float64] | None


def _norms_of(operators: Sequence[TemporalJacobian], wanted: _Wanted, watch: UnderWay | None) -> list[Result]:
    """The norms of one case from each of some operators."""
    chosen = [_chosen(operator, wanted) for operator in operators]
    count, parts = len(chosen[0].outputs), []

    def measured(batch: slice) -> list[LogNorms]:
        # every depth in turn, so that what they share need not be kept for long
        each = zip(operators, chosen, strict=True)
        return [operator.log_norms(one.outputs[batch].tolist(), None, wanted.norm) for operator, one in each]

    # a hundred parts are enough to see progress by, and few enough to leave large products whole
    size = max(operators[0].targets_at_once, math.ceil(count / 100))
    for first in range(0, count, size):
        batch = slice(first, min(first + size, count))
        parts.append(watch.batch(batch, count, operators, measured) if watch else measured(batch))
    each = zip(operators, chosen, zip(*parts, strict=True), strict=True)
    results = [_result(one, at, [*norms], wanted) for one, at, norms in each]
    return results if wanted.real is None else [without_padding(one, wanted.real) for one in results]


def _chosen(operator: TemporalJacobian, wanted: _Wanted) -> _Chosen:
    n_out, _, n_in, _ = operator.shape
    position = operator.position
    if wanted.position is not None:
        position = positions_of(wanted.position, n_out, n_in, has_time=True)
    real = wanted.real
    if real is not None and n_out == n_in:
        # targets are counted among the real tokens
        tokens = wanted_positions(wanted.targets, len(real), wanted.seed)
        return _Chosen(tokens, real[tokens], position)
    if wanted.compared and position is not None:
        # layers that shorten the sequence answer for the same input positions as the others
        asked = wanted_positions(wanted.targets, n_in, wanted.seed)
        return _Chosen(asked, nearest_outputs(asked, position), position)
    if wanted.compared and n_out != n_in:
        raise BadInput(
            f"{wanted.label} gives {counted(n_out, 'output')} for {n_in} inputs, so its targets cannot be "
            "compared with those of the other layers; give position="
        )
    outputs = wanted_positions(wanted.targets, n_out, wanted.seed)
    return _Chosen(outputs, outputs, position)


def _result(operator: TemporalJacobian, chosen: _Chosen, parts: list[LogNorms], wanted: _Wanted) -> Result:
    n_in, own = operator.shape[2], operator.position
    at = None if own is None else own[chosen.outputs]
    norms = stacked(parts, at, n_in)
    if wanted.position is not None or wanted.real is not None:
        # lags were counted from where the operator has them
        norms = over_sources(norms, at, n_in)
    said = ("method", "tolerance", "shape", "error_kind", "zero_proof", "log_floor", "probes", "deflated")
    placed = None if chosen.position is None else chosen.position[chosen.outputs]
    return Result(norms, chosen.wanted, placed, **{name: getattr(operator, name) for name in said})
