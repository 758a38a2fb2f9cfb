r"""How fast do states that start together part: the Lyapunov exponents of a recurrence, in nats a step.

    lambda_i = lim 1/T sum_t ln |r_ii(t)|,    J_t Q_{t-1} = Q_t R_t,    J_t = ds_t/ds_{t-1}  (S, S)

s is everything the recurrence carries: (c, h) of every layer of an LSTM. Q is iterated through the warm-up
before anything is counted.
Source: Benettin et al. 1980, Shimada and Nagashima 1979; for recurrent networks Engelken et al. 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from depprobe import store
from depprobe._version import __version__
from depprobe.core.budget import DEFAULT_MEMORY, parse_bytes
from depprobe.curves.exponents import stops_of
from depprobe.curves.growth import exponents_of
from depprobe.dynamics.benettin import Growth
from depprobe.dynamics.frames import count_of, grown, require_frame, warmup_of
from depprobe.dynamics.maps import map_stretches
from depprobe.dynamics.trajectory import Recurrence
from depprobe.errors import BadInput, unknown
from depprobe.operators.dispatch import check, is_plain
from depprobe.runs.cases import Case, cases_of
from depprobe.runs.inputs import Source
from depprobe.vocabulary import DRIVES, SCHEMA_VERSION

Progress = Callable[[float, int, str], None]


def lyapunov(
    module: nn.Module | str | Sequence[str],
    x: Tensor | ArrayLike | Source | None = None,
    *,
    n: int = 1000,
    d: int = 512,
    exponents: int | str | None = None,
    drive: str = "input",
    warmup: int | None = None,
    samples: int = 1,
    seeds: int = 1,
    seed: int = 0,
    dtype: str = "float64",
    device: str = "cpu",
    memory: int | str = DEFAULT_MEMORY,
    command: str | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Leading Lyapunov exponents of a recurrent layer along a trajectory, as a labelled dataset.

    Parameters
    ----------
    module : ``nn.RNN``, ``nn.GRU`` or ``nn.LSTM`` in one direction, of any depth; or the spec string of a
        named layer (``"lstm:forget_bias=2"``), or several.
    x : (n, d_in), or (samples, n, d_in), tensor or array; needed with a module that is driven. With spec
        strings also a ``depprobe.runs.inputs.Source``; by default seeded noise, x ~ N(0, 1).
    n, d : steps in all (warm-up included) and width, for spec strings; without input, n is for modules too.
    exponents : how many, the largest first; ``"all"``; by default 16, or all where the state is smaller.
    drive : ``input``: driven by x from the zero state; ``none``: autonomous, zero input, from a random state
        s ~ N(0, 1) (the zero state of a module without biases is a fixed point).
    warmup : steps before anything is counted; a fifth of n by default.
    samples : number of inputs, or of starting states; same weights.
    seeds : number of draws of the weights, from ``seed`` on, for spec strings.
    seed : fixes the weights, then the input, the starting state and the first frame.
    dtype, device : of named layers; a module keeps its own.
    memory : budget in bytes, or a size such as ``"4GiB"``.
    command : what to record as the command; the call itself by default.
    progress : called with (cases done, cases in all, what is under way).

    Returns
    -------
    Dataset with ``exponent(mode)`` and ``exponent_stderr(mode)``: over several seeds or samples, the mean and
    the standard error from their spread; of a single trajectory, the error from 20 block means
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
    budget = parse_bytes(memory) if isinstance(memory, str) else memory
    if drive == "none":
        if x is not None and not isinstance(x, Source):
            raise BadInput("drive='none' takes no input: leave out x, or use drive='input'")
        if isinstance(module, nn.Module):
            x = np.zeros((max(samples, 0), n, _recurrent(module, type(module).__name__).input_size))
    labels, seed_values, cases = cases_of(
        module, x, n, d, samples=samples, seeds=seeds, seed=seed, dtype=dtype, device=device, memory=budget
    )
    if drive == "none":
        cases = [replace(case, x=torch.zeros_like(case.x)) for case in cases]
    length = len(cases[0].x)
    before = warmup_of(warmup, length)
    stops = stops_of(length - before)
    per_label = len(cases) // len(labels)
    each = per_label // len(seed_values)

    results, widths = [], []
    for done, case in enumerate(cases):
        if progress:
            progress(done, len(cases), case.label)
        built = case.build()
        recurrent = _recurrent(built, case.label)
        check(built, case.x)
        if case.x.shape[1] != recurrent.input_size:
            raise BadInput(f"x is {case.x.shape[1]} wide and the module reads {recurrent.input_size}")
        flow = Recurrence(recurrent)
        own_seed = seed if isinstance(module, nn.Module) else case.seed
        rng = np.random.default_rng([own_seed, done % each, 2])
        start = flow.random_state(rng) if drive == "none" else None
        m = count_of(exponents, flow.width)
        require_frame(flow.width, m, budget)

        def report(steps: int, done: int = done, case: Case = case) -> None:
            if progress:
                progress(done + steps / length, len(cases), case.label)

        results.append(
            grown(flow.stretches(case.x.detach(), start), flow.width, m, before, stops, case.x, rng, report)
        )
        widths.append(flow.width)
    if len({result.increments.shape[1] for result in results}) > 1:
        raise BadInput(
            f"the layers have states of {', '.join(map(str, widths[::per_label]))}; "
            f"ask for at most {min(widths)} exponents to compare them"
        )
    if progress:
        progress(len(cases), len(cases), "")
    ds = _labelled(results, labels, seed_values, stops, widths)
    inputs = np.concatenate([case.x.detach().cpu().numpy().ravel() for case in cases])
    called = command or f"depprobe.lyapunov({', '.join(labels)})"
    ds.attrs |= _attributes(", ".join(labels), length, seed, cases[0].x.dtype, before, called, inputs)
    ds.attrs |= {"drive": drive, "d": recurrent.hidden_size if isinstance(module, nn.Module) else d}
    return ds


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
    start = (
        state if isinstance(state, Tensor) else torch.as_tensor(np.asarray(state, dtype=np.float64))
    ).detach()
    if start.ndim != 1 or not len(start) or not start.is_floating_point():
        raise BadInput(f"state must be a vector (S,) of floats, not {tuple(start.shape)} of {start.dtype}")
    if steps is None and inputs is None:
        raise BadInput("give steps, or inputs with one entry a step")
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
    read = None if inputs is None else torch.as_tensor(inputs).detach().cpu().numpy()
    called = f"depprobe.lyapunov_of_map({name})"
    ds.attrs |= _attributes(name, total, seed, start.dtype, before, called, read)
    ds.attrs |= {"drive": "none" if inputs is None else "input", "d": len(start)}
    return ds


def _labelled(
    results: list[Growth], labels: list[str], seeds: list[int], stops: NDArray[np.int64], widths: list[int]
) -> xr.Dataset:
    increments = np.stack([result.increments for result in results])
    dets = [result.log_det for result in results]
    intervals = [result.interval for result in results]
    return exponents_of(increments, dets, stops, labels, seeds, widths, intervals)


def _recurrent(module: nn.Module, label: str) -> nn.RNNBase:
    for kind in (nn.RNN, nn.GRU, nn.LSTM):
        if isinstance(module, kind) and is_plain(module, kind):
            return module
    raise BadInput(
        f"{label} has no known recurrence: Lyapunov exponents are those of nn.RNN, nn.GRU and nn.LSTM "
        "(layers rnn, gru, lstm); for any other map use depprobe.lyapunov_of_map"
    )


def _attributes(
    label: str, n: int, seed: int, dtype: torch.dtype, warmup: int, command: str, x: ArrayLike | None
) -> dict[str, Any]:
    return {
        "title": f"Lyapunov exponents of {label}",
        "layer": label,
        "n": n,
        "seed": seed,
        "dtype": str(dtype).removeprefix("torch."),
        "method": "qr",
        "warmup": warmup,
        "depprobe_version": __version__,
        "schema_version": SCHEMA_VERSION,
        "provenance": store.provenance(command, x),
    }
