r"""What is measured, and what a call asks of it: a named layer built here, or a module as it is.

"lstm:forget_bias=2"      a named layer: built here, at an input that is drawn, read or given
module                    measured as it is, at the input given

While a named layer is built, torch's functions are handed a generator of their own, and dtype and device by
name, in this thread alone: ``drawn_from``. The numbers are those after ``torch.manual_seed``.
"""

from __future__ import annotations

import abc
import contextlib
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from depprobe.core.calling.arguments import Sample, in_dtype, samples_of
from depprobe.core.device import device_of
from depprobe.core.options import DEFAULT_MEMORY, check_kind, parse_bytes, pinned, require
from depprobe.errors import BadInput, unknown
from depprobe.registry import Spec, layers
from depprobe.runs.inputs import DEFAULT_LENGTH, Source, joined
from depprobe.runs.module_inputs import samples_for, tokens_of

Call = TypeVar("Call", bound=Callable[..., Any])
#: what is taken where a call gives none
DEFAULTS: dict[str, Any] = {"n": DEFAULT_LENGTH, "d": 512, "samples": 1, "seeds": 1}
DEFAULTS |= {"dtype": "float64", "device": "cpu"}
DTYPES = {"float32": torch.float32, "float64": torch.float64}
#: share of the budget below which one (d x d) matrix cannot make the weights exceed it
_SMALL_SHARE = 0.01
#: functions that draw; those of ``torch.nn.init`` name their generator when they come here
_DRAWING = {torch.rand, torch.randn, torch.randint, torch.randperm, torch.normal, torch.bernoulli}
_DRAWING |= {torch.multinomial, torch.poisson, Tensor.multinomial, Tensor.bernoulli}
_DRAWING |= {Tensor.normal_, Tensor.uniform_, Tensor.bernoulli_, Tensor.exponential_, Tensor.cauchy_}
_DRAWING |= {Tensor.log_normal_, Tensor.geometric_, Tensor.random_}
#: functions that make floats of the default dtype unless told otherwise
_FLOATS = {torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn, torch.eye, torch.linspace}
_FLOATS |= {torch.logspace, torch.hann_window, torch.hamming_window, torch.empty_strided}
#: functions that do so where their arguments are floats
_VALUES = {torch.tensor, torch.as_tensor, torch.full, torch.arange, torch.scalar_tensor}
_PLACED = _FLOATS | _VALUES | {torch.randint, torch.randperm}


def asks(**kinds: str) -> Callable[[Call], Call]:
    """Decorator of a public call: refuses unknown arguments, and kinds of known ones; None as default alone.

    Examples
    --------
    >>> asks(n="a whole number")(lambda n=None: n)("nine")
    Traceback (most recent call last):
    depprobe.errors.BadInput: n must be a whole number, not 'nine'
    """

    def decorate(call: Call) -> Call:
        signature = inspect.signature(call)
        defaults = {p.name: p.default for p in signature.parameters.values() if p.default is not p.empty}

        @functools.wraps(call)
        def asked(*args: Any, **kwargs: Any) -> Any:
            for name in sorted(kwargs.keys() - signature.parameters.keys()):
                raise unknown(f"argument of {call.__name__}", name, signature.parameters)
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError:
                return call(*args, **kwargs)  # which says what is missing
            given = bound.arguments
            given.update({name: _plain(value) for name, value in given.items()})
            for name, kind in kinds.items():
                if name in given and (given[name] is not None or defaults.get(name) is not None):
                    check_kind(kind, **{name: given[name]})
            return call(*bound.args, **bound.kwargs)

        return cast(Call, asked)

    return decorate


def _plain(value: Any) -> Any:
    """Scalars of numpy as Python's, dtypes and devices of torch as their names; all else as it is."""
    value = value.item() if isinstance(value, np.generic) else value
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype | torch.device) else value


@dataclass(frozen=True)
class Request:
    """Size, number, dtype and place of the cases of one call, as in ``depprobe.jacobian``; None: not given.

    Examples
    --------
    >>> asked = Request(n=30)
    >>> asked.given(), asked.of("n"), asked.of("d")
    ({'n': 30}, 30, 512)
    """

    n: int | None = None
    d: int | None = None
    samples: int | None = None
    seeds: int | None = None
    seed: int = 0
    dtype: str | None = None
    device: str | None = None
    budget: int | str = DEFAULT_MEMORY

    def __post_init__(self) -> None:
        numbers = {"n": self.n, "d": self.d, "samples": self.samples, "seeds": self.seeds}
        always = {"seed": self.seed} | ({} if isinstance(self.budget, str) else {"memory": self.budget})
        names = {"dtype": self.dtype, "device": self.device}
        check_kind("a whole number", **always, **{k: v for k, v in numbers.items() if v is not None})
        check_kind("text", **{name: value for name, value in names.items() if value is not None})

    def of(self, name: str) -> Any:
        """A value as given, or the default."""
        value = getattr(self, name)
        return DEFAULTS[name] if value is None else value

    def given(self) -> dict[str, Any]:
        """What the call gave, by name."""
        return {name: getattr(self, name) for name in DEFAULTS if getattr(self, name) is not None}

    @property
    def memory(self) -> int:
        """The budget in bytes."""
        return parse_bytes(self.budget) if isinstance(self.budget, str) else self.budget


def refuse(given: Mapping[str, Any], meaningless: Iterable[tuple[str, str]]) -> None:
    """Refuse arguments that were given and have no meaning in the call, all of them in one message.

    ``given`` holds name -> value, None for what was not given; ``meaningless`` (name, reason) of what would
    be ignored. The ``BadInput`` raised names each with its value and the reason.

    Examples
    --------
    >>> refuse({"n": 9, "d": None}, [("n", "x brings its own"), ("d", "x brings its own")])
    Traceback (most recent call last):
    depprobe.errors.BadInput: n=9 has no meaning in this call (x brings its own): leave it out
    """
    why: dict[str, list[str]] = {}
    for name, reason in meaningless:
        if given.get(name) is not None:
            text = " ".join(repr(given[name]).split())
            why.setdefault(reason, []).append(f"{name}={text if len(text) <= 40 else text[:37] + '...'}")
    if not why:
        return
    groups = [f"{', '.join(names)} ({reason})" for reason, names in why.items()]
    if sum(map(len, why.values())) == 1:
        name, _, reason = groups[0].partition(" (")
        raise BadInput(f"{name} has no meaning in this call ({reason}: leave it out")
    raise BadInput(f"arguments without meaning in this call: {'; '.join(groups)}: leave them out")


class Subject(abc.ABC):
    """Something that is measured, under its label in datasets."""

    #: arguments that have no meaning for it -> why
    refuses: Mapping[str, str] = {}

    def __init__(self, label: str) -> None:
        self.label = label

    @abc.abstractmethod
    def build(self, seed: int, request: Request, given: Sample | None = None) -> nn.Module:
        """The module with the weights of one seed, as wide as its inputs, one of which is ``given``."""

    @abc.abstractmethod
    def inputs(self, x: Any, seed: int, request: Request) -> tuple[list[Sample], bool]:
        """Its inputs, one a sample, and whether a fixed random projection joined them to its width."""

    def tokens(self, x: Any, given: Sample, number: int = 0) -> Sequence[str]:
        return tokens_of(x, given, number)


class NamedLayer(Subject):
    """A layer of the registry, by its spec string; weights drawn in float32, so that dtypes agree."""

    def __init__(self, label: str, text: str) -> None:
        super().__init__(label)
        self.spec = Spec.parse(text)
        self.entry, self.options = layers[self.spec.name], self.spec.options()
        self.refuses = dict.fromkeys(("forward", "layout"), f"it is for models; {label} is a named layer")

    def build(self, seed: int, request: Request, given: Sample | None = None) -> nn.Module:
        device, dtype = device_of(request.of("device")), DTYPES[request.of("dtype")]
        d_in = given.shape[-1] if isinstance(given, Tensor) else None
        with drawn_from(seed):
            module: nn.Module = self.entry.build(request.of("d"), **self.widths(d_in), **self.options)
            return module.to(device=device, dtype=dtype).eval()

    def widths(self, d_in: int | None) -> dict[str, int]:
        """The width of the input, where the builder takes one."""
        return {"d_in": d_in} if d_in is not None and self.entry.reads_any_width else {}

    def require_room(self, d_in: int | None, request: Request) -> None:
        """Refuse weights that would not fit the budget, before they are allocated; raises ``OverBudget``."""
        d, size = request.of("d"), DTYPES[request.of("dtype")].itemsize
        # drawing weights without storage can cost seconds of torch's start-up: only where it could matter
        if size * d**2 < _SMALL_SHARE * request.memory:
            return
        with torch.device("meta"):
            module = self.entry.build(d, **self.widths(d_in or d), **self.options)
        # those drawn in float32 stand beside what they are converted to
        each = size + 4 * (size > 4)
        needed = each * sum(p.numel() for p in (*module.parameters(), *module.buffers()))
        cheaper = "a smaller --d" if size == 4 else "a smaller --d, or --dtype float32"
        require(
            needed, request.memory, f"{self.label} with its weights", f"use {cheaper}, or a larger --memory"
        )

    def inputs(self, x: Any, seed: int, request: Request) -> tuple[list[Sample], bool]:
        d, samples = request.of("d"), request.of("samples")
        device, dtype = device_of(request.of("device")), DTYPES[request.of("dtype")]
        if x is None or isinstance(x, Source):
            windows = (x or Source("noise")).windows(request.n, d, samples, seed)
        else:
            given = samples_of(x, nn.Identity())
            floats = [one for one in given if isinstance(one, Tensor) and one.is_floating_point()]
            if len(floats) < len(given):
                raise BadInput(f"{self.label} reads floats (n, d) or (samples, n, d), not ids or a mapping")
            windows = torch.stack(floats).double().cpu().numpy()
        projected = windows.shape[-1] != d and not self.entry.reads_any_width
        if projected:
            windows = joined(windows, d)
        return [in_dtype(one, dtype, device) for one in windows], projected


class BuiltModule(Subject):
    """A module that a user built: measured as it is."""

    def __init__(self, label: str, module: nn.Module) -> None:
        super().__init__(label)
        self.module = module
        self.refuses = {
            "d": f"{label} has its own width",
            **dict.fromkeys(("seeds", "dtype", "device"), f"{label} is a module that is already built"),
        }

    def build(self, seed: int, request: Request, given: Sample | None = None) -> nn.Module:
        return self.module

    def inputs(self, x: Any, seed: int, request: Request) -> tuple[list[Sample], bool]:
        if isinstance(x, Source):
            return samples_for(self.module, x, request.n, request.of("samples"), seed), False
        # arrays in the dtype and on the device of the module, tensors as they are
        return samples_of(x, self.module), False


class _Drawn(TorchFunctionMode):
    """Random functions draw from ``generator``; new tensors are float32 on the CPU unless named otherwise."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if (func in _DRAWING or "generator" in kwargs) and kwargs.get("generator") is None:
            kwargs["generator"] = self.generator
        if func in _PLACED and kwargs.get("device") is None and not any(isinstance(a, Tensor) for a in args):
            kwargs["device"] = "cpu"
        if func in _FLOATS and kwargs.get("dtype") is None:
            kwargs["dtype"] = torch.float32
        made = func(*args, **kwargs)
        if func in _VALUES and kwargs.get("dtype") is None and made.dtype is torch.float64:
            # numpy brings its own dtype, a Python float the process's
            own = any(isinstance(value, np.ndarray | np.generic | Tensor) for value in args)
            made = made if own else func(*args, **kwargs, dtype=torch.float32)
        return made


@contextlib.contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """While a named layer is built: weights follow from ``seed`` alone, in float32 on the CPU.

    Examples
    --------
    >>> with drawn_from(3):
    ...     first = torch.nn.Linear(2, 2).weight
    >>> _ = torch.manual_seed(3)
    >>> bool((first == torch.nn.Linear(2, 2).weight).all())
    True
    """
    with pinned(), _Drawn(torch.Generator().manual_seed(seed)):
        yield


def check_dtype(dtype: str) -> None:
    """Refuse a dtype that is not one to measure with."""
    if dtype in ("float16", "bfloat16"):
        raise BadInput(f"{dtype} has too few digits to measure with: use --dtype float32")
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
