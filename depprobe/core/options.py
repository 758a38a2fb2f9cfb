"""How a temporal Jacobian is computed: options that travel together, memory budget, targets, torch's modes.

The memory budget says what a job needs before anything is allocated; targets are ``last``, ``all``,
``every:M``, ``random:K`` or a list of output positions.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import operator
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depprobe.core.device import full_precision
from depprobe.errors import BadInput, OverBudget, unknown
from depprobe.units import readable
from depprobe.vocabulary import METHODS, NORMS

#: bytes; fixed rather than read from the machine, so that chunks and hence results are the same everywhere
DEFAULT_MEMORY = 4 << 30
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}
#: held while a user's code runs
LOCK = threading.RLock()
#: what targets may be, and how many ``random`` stands for
CHOICES = "last, all, every:M, random:K or a list such as 9,99,999"
STRATIFIED = 64
_KINDS: dict[str, Any] = {"a whole number": Integral, "a number": Real, "text": str}
_KINDS |= {"a mapping": Mapping, "a function": Callable, "a list": Iterable, "true or false": bool}


def check_kind(kind: str, **given: Any) -> None:
    """Refuse values of another kind: ``a whole number``, ``a number``, ``text``, ``a list``, ...

    Examples
    --------
    >>> check_kind("a whole number", seed=1.5)
    Traceback (most recent call last):
    depprobe.errors.BadInput: seed must be a whole number, not 1.5
    """
    for name, value in given.items():
        fits = isinstance(value, _KINDS[kind]) and isinstance(value, bool) == (kind == "true or false")
        if not fits or (kind == "a list" and getattr(value, "ndim", 1) == 0):
            raise BadInput(f"{name} must be {kind}, not {_brief(value)}")


def _brief(value: Any) -> str:
    return " ".join(repr(value).split())[:60]


@dataclass(frozen=True)
class Options:
    """How a temporal Jacobian is computed.

    Attributes
    ----------
    tolerance : relative error of a norm that compression may cause; 0 for none.
    memory : bytes that the job may take.
    norm : ``fro``, ``spectral``, or ``fisher``, of an output that holds logits.
    method : ``auto`` takes the structured operator where there is one and autograd elsewhere;
        ``structured``, ``autograd`` and ``probes`` insist.
    probes : number of random rows a target for ``method='probes'``, or their relative error (``"10%"``).
    deflate : how many of them are directions in which the blocks are large, taken exactly.
    seed : seed of the probes.
    wrt : the denominator: ``x``, ``h``, ``c`` or the name of a submodule.
    forward : further arguments of the module's forward, held fixed.

    Raises
    ------
    BadInput : an option is outside what is listed here.

    Examples
    --------
    >>> Options(tolerance=0).method
    'auto'
    """

    tolerance: float = 1e-6
    memory: int = DEFAULT_MEMORY
    norm: str = "fro"
    method: str = "auto"
    probes: int | str = 32
    deflate: int = 0
    seed: int = 0
    wrt: str = "x"
    forward: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_kind("a whole number", memory=self.memory, seed=self.seed)
        check_kind("a number", tolerance=self.tolerance)
        check_kind("text", wrt=self.wrt)
        check_kind("a mapping", forward=self.forward)
        if self.method not in METHODS:
            raise unknown("method", self.method, METHODS)
        _norm(self.norm)
        if not 0 <= self.tolerance < 1:
            raise BadInput(f"tolerance must lie in [0, 1), not {self.tolerance}")
        _check_probes(self.probes)
        _check_deflate(self.deflate, self.probes, self.method)


def _check_probes(probes: int | str) -> None:
    if isinstance(probes, str):
        if not re.fullmatch(r"\d*\.?\d+%", probes) or not 0 < float(probes[:-1]) <= 100:
            raise BadInput(f"probes must be a whole number, or a relative error such as 10%, not {probes!r}")
        return
    check_kind("a whole number", probes=probes)
    if probes < 1:
        raise BadInput(f"probes must be at least 1, not {probes}")


def _check_deflate(deflate: int, probes: int | str, method: str) -> None:
    check_kind("a whole number", deflate=deflate)
    if deflate and method != "probes":
        raise BadInput(f"deflate={deflate} has no meaning with method {method!r}; use method='probes'")
    if deflate and isinstance(probes, str):
        raise BadInput(f"deflate={deflate} needs a number of probes, not {probes!r}")
    if deflate and not 0 < deflate < int(probes):
        raise BadInput(
            f"deflate must be at least 0 and less than the number of probes, {probes}: {deflate}; "
            "probes= (--probes) asks for more"
        )


def parse_bytes(text: str) -> int:
    """Bytes in a size such as ``4GiB``, ``500 MB`` or ``1000000``.

    Examples
    --------
    >>> parse_bytes("1.5KiB")
    1536
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([a-zA-Z]*)\s*", text)
    if not match or match[2].upper() not in _UNITS or float(match[1]) <= 0:
        raise BadInput(f"memory must be a size such as 4GiB, 500MB or 1000000, not {text!r}")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def require(needed: float, budget: int, what: str, remedy: str) -> None:
    """Raise ``OverBudget`` if ``needed`` bytes exceed the budget; ``remedy`` names options that would fit."""
    if needed > budget:
        raise OverBudget(
            f"{what} needs {readable(needed)} and the memory budget is {readable(budget)}; {remedy}"
        )


@contextlib.contextmanager
def pinned() -> Iterator[None]:
    """Plain modes, in one thread at a time."""
    with LOCK, plain_modes():
        yield


@contextlib.contextmanager
def plain_modes(full: bool = True) -> Iterator[None]:
    """Gradients on; autocast, inference mode and anomaly mode off, in this thread; ``full`` float32."""
    with contextlib.ExitStack() as stack:
        if full:
            stack.enter_context(full_precision())
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.is_anomaly_enabled():
            stack.enter_context(torch.autograd.set_detect_anomaly(False))
        yield


def wanted_positions(targets: str | int | Sequence[int], n: int, seed: int = 0) -> NDArray[np.int64]:
    """Input positions that targets ask for, ascending: (T,), each in [0, n).

    ``every:M`` is M - 1, 2 M - 1, ...: the last position of every run of M. ``random:K`` draws one from each
    of K runs of nearly equal length, from ``seed``; ``random`` stands for ``random:64``, or all where fewer.
    Negative numbers count from the end. Raises ``BadInput`` for anything else.

    Examples
    --------
    >>> wanted_positions("every:3", 10).tolist()
    [2, 5, 8]
    >>> wanted_positions("0,-1", 10).tolist()
    [0, 9]
    >>> wanted_positions("random:3", 30)
    array([ 5, 18, 29])
    """
    if isinstance(targets, str):
        if targets in ("last", "all"):
            return np.arange(n - 1 if targets == "last" else 0, n)
        targets = f"random:{min(STRATIFIED, n)}" if targets == "random" else targets
        try:
            if targets.startswith("every:"):
                step = int(targets.removeprefix("every:"))
                if not 1 <= step <= n:
                    raise BadInput(f"targets {targets!r}: the step must lie between 1 and n = {n}")
                return np.arange(step - 1, n, step)
            if targets.startswith("random:"):
                count = int(targets.removeprefix("random:"))
                if not 1 <= count <= n:
                    raise BadInput(f"targets {targets!r}: the number must lie between 1 and n = {n}")
                edges = np.linspace(0, n, count + 1).astype(np.int64)
                return np.random.default_rng([seed, 3]).integers(edges[:-1], edges[1:])
            targets = [int(part) for part in targets.split(",")]
        except BadInput:
            raise
        except ValueError:
            raise BadInput(f"targets must be {CHOICES}, not {targets!r}") from None
    if isinstance(targets, int) or hasattr(targets, "__array__"):
        targets = np.atleast_1d(targets).tolist()
    found, times = np.unique(_places(targets, n, "target", CHOICES), return_counts=True)
    if (times > 1).any():
        raise BadInput(f"a target is given twice: {found[times > 1][0]}")
    return found


def nearest_outputs(wanted: NDArray[np.int64], position: NDArray[np.float64]) -> NDArray[np.int64]:
    """For each input position wanted, the output that sits nearest to it (the earlier of two): (T,)."""
    return np.abs(position[None, :] - wanted[:, None]).argmin(1)


def _place(value: Any, n: int, what: str) -> int:
    try:
        place = operator.index(value)
    except TypeError:
        place = None
    if place is None or isinstance(value, bool):
        raise BadInput(f"{what} must be a whole number, not {_brief(value)}")
    if not -n <= place < n:
        raise BadInput(f"{what} {value} lies outside the {n} positions; use -{n} to {n - 1}")
    return place % n


def _places(values: Any, n: int, what: str, choices: str = "a list of whole numbers") -> list[int]:
    given = None if isinstance(values, str) or not isinstance(values, Iterable) else list(values)
    if not given:
        said = "an empty list" if given is not None else _brief(values)
        raise BadInput(f"{what}s must be {choices}, not {said}")
    return [_place(value, n, what) for value in given]


def _tensor(value: Any, shape: tuple[int, ...], what: str) -> Tensor:
    if not isinstance(value, Tensor) or not value.is_floating_point() or tuple(value.shape) != shape:
        kind = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else _brief(value)
        raise BadInput(f"{what} must be a floating tensor of shape {shape}, not {kind}")
    return value


def _norm(value: Any) -> str:
    if value not in NORMS:
        raise unknown("norm", value, NORMS)
    return value


#: parameter of a method of an operator -> its value, checked against the shape (n_out, d_out, n_in, d_in)
_ARGUMENTS: dict[str, Callable[[Any, tuple[int, ...]], Any]] = {
    "targets": lambda value, shape: _places(value, shape[0], "target"),
    "sources": lambda value, shape: value if value is None else _places(value, shape[2], "source"),
    "norm": lambda value, shape: _norm(value),
    "t": lambda value, shape: _place(value, shape[0], "target"),
    "k": lambda value, shape: _place(value, shape[2], "source"),
    "cotangent": lambda value, shape: _tensor(value, shape[:2], "a cotangent"),
    "tangent": lambda value, shape: _tensor(value, shape[2:], "a tangent"),
}
_METHODS = ("log_norms", "row", "block", "singular_values", "support", "vjp", "jvp")


def check_calls(kind: type) -> None:
    """Have the arguments of an operator's own methods checked before they run; positions arrive from 0 on."""
    for name in _METHODS:
        if name in vars(kind):
            setattr(kind, name, _checked(vars(kind)[name]))


def _checked(method: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(method)

    @functools.wraps(method)
    def call(self: Any, *args: Any, **given: Any) -> Any:
        found = signature.bind(self, *args, **given)
        for name in _ARGUMENTS.keys() & found.arguments.keys():
            found.arguments[name] = _ARGUMENTS[name](found.arguments[name], self.shape)
        norm = found.arguments.get("norm")
        if norm is not None and norm not in self.norms:
            raise BadInput(f"method {self.method!r} gives the norm {' or '.join(self.norms)}, not {norm!r}")
        with plain_modes():
            return method(*found.args, **found.kwargs)

    return call
