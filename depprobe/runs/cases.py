"""What is measured at a time: one module at one input, over layers, seeds and samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from depprobe.errors import BadInput, unknown
from depprobe.runs.inputs import Source, joined
from depprobe.core.budget import require
from depprobe.registry import Layer, Spec, layers

DTYPES = {"float32": torch.float32, "float64": torch.float64}

#: share of the budget below which one (d x d) matrix cannot make the weights exceed it
_SMALL_SHARE = 0.01


@dataclass(frozen=True)
class Case:
    """One module at one input: ``build()`` is the module, ``x`` is (n, d_in).

    ``batched`` says that an unknown module is to be given (1, n, d_in).
    """

    label: str
    seed: int
    build: Callable[[], nn.Module]
    x: Tensor
    batched: bool = False
    projected: bool = False


class Cases(NamedTuple):
    """What one call measures: a label for each layer, a seed for each draw, and their cases in that order."""

    labels: list[str]
    seeds: list[int]
    cases: list[Case]

    @property
    def named(self) -> str:
        """The layers in one line."""
        return ", ".join(self.labels)


def cases_of(
    target: nn.Module | str | Sequence[str],
    x: Any,
    n: int,
    d: int,
    *,
    samples: int,
    seeds: int,
    seed: int,
    dtype: str,
    device: str,
    memory: int,
) -> Cases:
    """Cases of a user's module at x, or of named layers at noise, at a ``Source`` or at data.

    Raises
    ------
    BadInput : fewer than one sample or seed, no layer, one twice, or what the module or a layer refuses.
    OverBudget : input or weights that would not fit.
    """
    if samples < 1 or seeds < 1:
        raise BadInput(f"samples and seeds must be at least 1, not {samples} and {seeds}")
    if isinstance(target, nn.Module):
        return Cases([type(target).__name__], [seed], cases_of_module(target, x))
    labels = labels_of(target)
    drawn = list(range(seed, seed + seeds))
    if x is None or isinstance(x, Source):
        require_room(labels, x or Source("noise"), n, d, samples, seeds, dtype, memory)
    return Cases(labels, drawn, cases_of_specs(labels, x, n, d, samples, drawn, dtype, device))


def _names(target: Any) -> list[str]:
    """Spec strings, where they are some; raises ``BadInput`` for what else Python may hand over."""
    named = [target] if isinstance(target, str) or not isinstance(target, Iterable) else list(target)
    for one in named:
        if isinstance(one, nn.Module):
            raise BadInput("several modules are measured one by one, not in a list: a call for each")
        if not isinstance(one, str):
            what = "a function" if callable(one) else f"{type(one).__name__} {one!r}"
            raise BadInput(f"{what} is neither a module nor the name of a layer; wrap it in an nn.Module")
    return named


def labels_of(specs: str | Sequence[str]) -> list[str]:
    """Spec strings as they are written in labels, each once; raises ``BadInput`` for none or one twice."""
    labels = [str(Spec.parse(text)) for text in _names(specs)]
    if not labels:
        raise BadInput("no layer was given; see depprobe layers")
    if len(set(labels)) < len(labels):
        raise BadInput(f"a layer is given twice: {', '.join(labels)}")
    return labels


def cases_of_module(module: nn.Module, x: Any) -> list[Case]:
    """One case a sample for a user's module at x: (n, d_in), or (samples, n, d_in).

    Arrays are brought to the module's dtype and device; tensors must be of both already.
    """
    if x is None or isinstance(x, Source):
        raise BadInput("a module needs its input: pass x of shape (n, d) or (samples, n, d)")
    if not isinstance(x, Tensor):
        array = np.asarray(x)
        if array.dtype.kind not in "iuf":
            raise BadInput(f"x holds {array.dtype}; it must hold real numbers")
        weights = (p for p in module.parameters() if p.is_floating_point())
        x = torch.as_tensor(array).to(next(weights, torch.zeros(0, dtype=torch.float64)))
    if x.ndim not in (2, 3) or x.numel() == 0:
        raise BadInput(f"x must be (n, d) or (samples, n, d) with entries, not {tuple(x.shape)}")
    if x.dtype in (torch.float16, torch.bfloat16):
        raise BadInput(f"{x.dtype} has too few digits to measure with: use module.float() and x.float()")
    label = type(module).__name__
    inputs = x[None] if x.ndim == 2 else x
    return [Case(label, 0, lambda: module, one, batched=x.ndim == 3) for one in inputs]


def cases_of_specs(
    labels: list[str], x: Any, n: int, d: int, samples: int, seeds: list[int], dtype: str, device: str
) -> list[Case]:
    """Cases of named layers, layer by layer, then seed by seed, then sample by sample.

    Raises
    ------
    BadInput : unknown layer, option, dtype or device; an input that does not fit.
    """
    _check_width_and_dtype(d, dtype)
    if min(seeds) < 0 or max(seeds) >= 2**63:
        raise BadInput(f"seeds must lie between 0 and 2^63 - 1, not {seeds[0]} to {seeds[-1]}")
    where = _device(device)
    cases = []
    for label in labels:
        spec = Spec.parse(label)
        entry, options = layers[spec.name], spec.options()
        for seed in seeds:
            inputs = _windows(x, n, d, samples, seed)
            projected = inputs.shape[-1] != d and not entry.reads_any_width
            if projected:
                inputs = joined(inputs, d)
            widths = {"d_in": inputs.shape[-1]} if entry.reads_any_width else {}
            build = partial(_build, entry, d, widths | options, seed, where, DTYPES[dtype])
            cases += [
                Case(label, seed, build, torch.from_numpy(one).to(where, DTYPES[dtype]), projected=projected)
                for one in inputs
            ]
    return cases


def require_room(
    labels: Sequence[str], source: Source, n: int, d: int, samples: int, seeds: int, dtype: str, memory: int
) -> None:
    """Refuse inputs or weights that would not fit the budget, before either is allocated.

    Raises
    ------
    OverBudget : naming options that would fit.
    BadInput : unknown layer, option or dtype; a source that is too short.
    """
    _check_width_and_dtype(d, dtype)
    source.check(n, samples)
    inputs = len(labels) * seeds * samples
    # drawn or read in float64, whatever the dtype asked for
    position = 8.0 * inputs * max(d, source.width or d)
    require(
        position * n,
        memory,
        f"the input ({inputs} x {n} x {max(d, source.width or d)})",
        "use a smaller --n or --d, fewer layers, samples or seeds, or a larger --memory",
    )
    for label in labels:
        spec = Spec.parse(label)
        entry, options = layers[spec.name], spec.options()
        # drawing weights without storage can cost seconds of torch's start-up: only where it could matter
        if DTYPES[dtype].itemsize * d**2 < _SMALL_SHARE * memory:
            continue
        widths = {"d_in": source.width or d} if entry.reads_any_width else {}
        with torch.device("meta"):
            module = entry.build(d, **widths, **options)
        size = DTYPES[dtype].itemsize * sum(p.numel() for p in (*module.parameters(), *module.buffers()))
        cheaper = "a smaller --d" if dtype == "float32" else "a smaller --d, or --dtype float32"
        require(size, memory, f"{label} with its weights", f"use {cheaper}, or a larger --memory")


def _check_width_and_dtype(d: int, dtype: str) -> None:
    if dtype in ("float16", "bfloat16"):
        raise BadInput(f"{dtype} has too few digits to measure with: use --dtype float32")
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    if d < 1:
        raise BadInput(f"d must be at least 1, not {d}")


def _windows(x: Any, n: int, d: int, samples: int, seed: int) -> np.ndarray:
    if x is None or isinstance(x, Source):
        return (x or Source("noise")).windows(n, d, samples, seed)
    given = np.asarray(x.detach().cpu() if isinstance(x, Tensor) else x, dtype=np.float64)
    if given.ndim not in (2, 3) or given.size == 0:
        raise BadInput(f"x must be (n, d) or (samples, n, d) with entries, not {given.shape}")
    return given[None] if given.ndim == 2 else given


def _build(
    entry: Layer, d: int, options: dict[str, Any], seed: int, device: torch.device, dtype: torch.dtype
) -> nn.Module:
    """The layer with weights drawn from ``seed``, in eval mode; drawn in float32, so that dtypes agree."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = entry.build(d, **options)
    return module.to(device=device, dtype=dtype).eval()


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        # reading a value back tells devices that hold none
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError):
        have = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
        have += ["mps"] if torch.backends.mps.is_available() else []
        raise BadInput(f"no device {name!r} here; there is {', '.join(have)}") from None
    return device
