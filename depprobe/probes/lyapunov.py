r"""How fast do states that start together part: the Lyapunov exponents of a recurrence, in nats a step.

    lambda_i = lim 1/T sum_t ln |r_ii(t)|,    J_t Q_{t-1} = Q_t R_t,    J_t = ds_t/ds_{t-1}  (S, S)

s is everything the recurrence carries: (c, h) of every layer of an LSTM. Q is iterated through the warm-up
before anything is counted.
Source: Benettin et al. 1980, Shimada and Nagashima 1979; for recurrent networks Engelken et al. 2023.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from depprobe.core.calling.arguments import check
from depprobe.core.calling.weights_in_effect import recurrence_in_effect
from depprobe.core.options import DEFAULT_MEMORY, plain_modes
from depprobe.dynamics.benettin import Growth
from depprobe.dynamics.exponents import exponents_of, stops_of
from depprobe.dynamics.frames import count_of, grown, require_frame, warmup_of
from depprobe.dynamics.maps import map_stretches
from depprobe.dynamics.trajectory import Recurrence
from depprobe.errors import BadInput, unknown, wrong_width
from depprobe.runs.cache import Place, holding
from depprobe.runs.cases import Case, Cases, Progress, Report, cases_of, collect, subjects_of
from depprobe.runs.identity import identity_of
from depprobe.runs.inner_recurrence import at_recurrences
from depprobe.runs.inputs import Source
from depprobe.runs.labelling import origin, with_origin
from depprobe.runs.subject import NamedLayer, Request, asks
from depprobe.units import counted
from depprobe.vocabulary import DRIVES


@plain_modes()
@asks(part="text", warmup="a whole number", drive="text", command="text", progress="a function")
def lyapunov(
    module: Any,
    x: Any = None,
    *,
    n: int | None = None,
    d: int | None = None,
    part: str | None = None,
    exponents: int | str | None = None,
    drive: str = "input",
    warmup: int | None = None,
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
    """Leading Lyapunov exponents of a recurrent layer along a trajectory, as a labelled dataset.

    Parameters
    ----------
    module : ``nn.RNN``, ``nn.GRU`` or ``nn.LSTM`` in one direction, of any depth, or a model that holds one;
        the spec string of a named layer (``"lstm:forget_bias=2"``), or several; a factory of them, or a
        mapping from labels.
    x, n, d, samples, seeds, seed, dtype, device, memory, command, progress, finished : as for
        ``depprobe.jacobian``; x is what the module reads, n counts the warm-up, and ``seed`` fixes the
        starting state and the first frame too. Without input, n and samples (starting states) are for modules
        too.
    part : name of the recurrence in a model that holds several; it is measured at what the model hands it.
    exponents : how many of the largest, or ``"all"``; by default 16, or as many as the smallest state of the
        layers has.
    drive : ``input``: driven by x from the zero state; ``none``: autonomous, zero input, from a random state
        s ~ N(0, 1) (the zero state of a module without biases is a fixed point).
    warmup : steps before anything is counted; a fifth of n by default.

    Returns
    -------
    Dataset with ``exponent(mode)``, falling, and ``exponent_stderr(mode)``: over several seeds or samples the
    mean and the standard error from their spread; of a single trajectory, the error from 20 block means
    (``stderr_from`` says which). ``exponent_running(step, mode)`` is the mean up to a step. Several cases are
    kept in ``exponent_case``. Where all exponents are asked for, ``exponent_sum`` stands beside ``log_det``,
    the mean of ln |det J_t|, which it must equal. ``kaplan_yorke`` and ``entropy_rate`` follow from the
    exponents, NaN where more of them would be needed. An exponent is -inf where a step Jacobian is exactly
    singular, and NaN where one cannot be told from round-off.

    Raises
    ------
    BadInput : anything in the call is not as above; the message names it.
    DepprobeError : the trajectory reached Inf.

    Examples
    --------
    >>> ds = lyapunov("lstm", n=60, d=5, exponents="all")
    >>> ds.exponent.sizes["mode"], bool(abs(ds.exponent_sum - ds.log_det) < 1e-9)
    (10, True)
    """
    if drive not in DRIVES:
        raise unknown("drive", drive, DRIVES)
    asked = Request(n, d, samples, seeds, seed, dtype, device, memory)
    if drive == "none":
        if x is not None and not isinstance(x, Source):
            raise BadInput("drive='none' takes no input: leave out x, or use drive='input'")
        if part is not None:
            raise BadInput(f"part={part!r} is measured at what its model hands it: use drive='input'")
        measured = _undriven(module, asked)
    else:
        measured = at_recurrences(cases_of(module, x, asked), part)
    cases = measured.cases
    length = len(cases[0].x)
    before = warmup_of(warmup, length)
    stops = stops_of(length - before)
    numbered = [(case, index % measured.samples) for index, case in enumerate(cases)]
    if exponents is None and len(measured.labels) > 1:
        # as many of each layer as the smallest state has
        one_each = (Recurrence(_recurrent(case.build(), case.label)) for case in measured.firsts(cases))
        exponents = min(count_of(None, flow.width) for flow in one_each)

    def measure(item: tuple[Case, int], report: Report) -> tuple[Growth, int]:
        case, sample = item
        recurrent = _recurrent(case.build(), case.label)
        check(recurrent, case.x)
        if case.x.shape[1] != recurrent.input_size:
            raise wrong_width(case.x.shape[1], recurrent.input_size)
        flow = Recurrence(recurrent)
        rng = np.random.default_rng([case.seed, sample, 2])
        start = flow.random_state(rng) if drive == "none" else None
        m = count_of(exponents, flow.width)
        require_frame(flow.width, m, asked.memory)
        stretches = flow.stretches(case.x, start)
        told = grown(stretches, flow.width, m, before, stops, case.x, rng, lambda k: report(k / length))
        return told, flow.width

    def facts(item: tuple[Case, int]) -> dict[str, Any]:
        case, sample = item
        known = {"layer": case.label, "seed": case.seed, "d": asked.of("d"), "dtype": asked.of("dtype")}
        known |= {"exponents": exponents, "drive": drive, "warmup": before, "sample": sample}
        return known | {"probe": "lyapunov"} | identity_of(case)

    kept = holding(finished, lambda one: {**one[0]._asdict(), "width": one[1]}, _kept)
    found = collect(
        numbered, measure, name=lambda item: item[0].label, progress=progress, kept=kept, facts=facts
    )
    results, widths = [one for one, _ in found], [width for _, width in found]
    if len({result.increments.shape[1] for result in results}) > 1:
        raise BadInput(
            f"the layers have states of {', '.join(map(str, dict.fromkeys(widths)))}; "
            f"ask for at most {counted(min(widths), 'exponent')} to compare them"
        )
    ds = _labelled(results, measured.labels, measured.seeds, stops, widths)
    return with_origin(
        ds,
        "Lyapunov exponents",
        measured,
        command or f"depprobe.lyapunov({measured.named})",
        n=length,
        seed=seed,
        method="qr",
        warmup=before,
        drive=drive,
        d=[_recurrent(case.build(), "").hidden_size for case in measured.firsts(cases)],
        **({} if part is None else {"part": part}),
    )


def _undriven(module: Any, asked: Request) -> Cases:
    """Cases with an input of zeros, which the package makes, of modules and factories too."""
    subjects = subjects_of(module)
    own = [one for one in subjects if not isinstance(one, NamedLayer)]
    if not own:
        measured = cases_of(module, None, asked)
        return measured._replace(cases=[replace(c, given=torch.zeros_like(c.x)) for c in measured.cases])
    widths = {_recurrent(one.build(asked.seed, asked), one.label).input_size for one in own}
    if len(widths) > 1 or len(own) < len(subjects):
        raise BadInput("without input, modules are measured beside modules of one input width")
    samples = asked.of("samples")
    if samples < 1:
        raise BadInput(f"samples must be at least 1, not {samples}")
    zeros = np.zeros((samples, asked.of("n"), *widths))
    return cases_of(module, zeros, replace(asked, n=None, samples=None))


@asks(step="a function", steps="a whole number", warmup="a whole number", seed="a whole number", name="text")
def lyapunov_of_map(
    step: Callable[..., Tensor],
    state: Tensor | ArrayLike,
    inputs: Tensor | None = None,
    *,
    steps: int | None = None,
    exponents: int | str | None = None,
    warmup: int | None = None,
    seed: int = 0,
    name: str = "map",
) -> xr.Dataset:
    """Lyapunov exponents of any map made of torch operations, along one trajectory.

    Parameters
    ----------
    step : ``step(state)``, or ``step(state, input)`` with inputs, gives the next state (S,).
    state : (S,), where the trajectory starts; arrays become float64.
    inputs : (steps, ...), one entry a step.
    steps : number of steps, warm-up included; as many as there are inputs by default.
    exponents, warmup : as for ``lyapunov``.
    seed : of the first frame.
    name : what to call the map.

    Returns
    -------
    Dataset as from ``lyapunov``. Exponents are per step: divide by the time step of a flow.

    Raises
    ------
    BadInput : neither inputs nor steps, a state that is not (S,), a map that torch.func cannot differentiate.
    DepprobeError : the trajectory reached Inf.

    Examples
    --------
    >>> logistic = lambda s: 4 * s * (1 - s)
    >>> ds = lyapunov_of_map(logistic, [0.3], steps=5000)
    >>> bool(abs(ds.exponent[0] - np.log(2)) < 0.01)
    True
    """
    try:
        given = state if isinstance(state, Tensor) else torch.as_tensor(np.asarray(state, dtype=np.float64))
    except (TypeError, ValueError):
        raise BadInput(f"state must be a vector (S,) of floats, not {state!r:.60}") from None
    start = given.detach()
    if start.ndim != 1 or not len(start) or not start.is_floating_point():
        raise BadInput(f"state must be a vector (S,) of floats, not {tuple(start.shape)} of {start.dtype}")
    if steps is None and inputs is None:
        raise BadInput("give steps, or inputs with one entry a step")
    if inputs is not None and not hasattr(inputs, "__len__"):
        raise BadInput(f"inputs must hold one entry a step, not {inputs!r:.60}")
    total = len(inputs) if steps is None and inputs is not None else int(steps or 0)
    if inputs is not None and total > len(inputs):
        raise BadInput(f"{total} steps were asked for and there are inputs for {len(inputs)}")
    before = warmup_of(warmup, total)
    m = count_of(exponents, len(start))
    rng = np.random.default_rng([seed, 0, 2])
    flow = map_stretches(step, start, inputs, total, m)
    stops = stops_of(total - before)
    result = grown(flow, len(start), m, before, stops, start, rng, lambda steps: None)
    ds = _labelled([result], [name], [seed], stops, [len(start)])
    ds.attrs |= origin(
        "Lyapunov exponents",
        [name],
        f"depprobe.lyapunov_of_map({name})",
        None if inputs is None else torch.as_tensor(inputs).detach().cpu().numpy(),
        n=total,
        seed=seed,
        dtype=str(start.dtype).removeprefix("torch."),
        method="qr",
        warmup=before,
        drive="none" if inputs is None else "input",
        d=len(start),
    )
    return ds


def _kept(fields: dict[str, Any]) -> tuple[Growth, int]:
    growth = Growth(fields["increments"], fields.get("log_det"), float(fields["interval"]))
    return growth, int(fields["width"])


def _labelled(
    results: list[Growth], labels: list[str], seeds: list[int], stops: NDArray[np.int64], widths: list[int]
) -> xr.Dataset:
    dets, intervals = [one.log_det for one in results], [one.interval for one in results]
    increments = np.stack([one.increments for one in results])
    return exponents_of(increments, dets, stops, labels, seeds, widths, intervals)


def _recurrent(module: nn.Module, label: str) -> nn.RNNBase:
    recurrent = recurrence_in_effect(module)
    inside = [name for name, one in module.named_modules() if name and isinstance(one, nn.RNNBase)]
    if recurrent is None and inside:
        raise BadInput(
            f"{label} holds {' and '.join(inside)} and hands what is read: measure that with drive='input' "
            "(--drive input), or the recurrence by itself without input"
        )
    if recurrent is None:
        raise BadInput(
            f"{label} has no known recurrence: Lyapunov exponents are those of nn.RNN, nn.GRU and nn.LSTM "
            "(layers rnn, gru, lstm); for any other map use depprobe.lyapunov_of_map"
        )
    return recurrent
