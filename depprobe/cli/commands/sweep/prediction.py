"""How much work a cell is, and the memory it may take: by the formulas of layers, before anything is run.

work = FLOPs of one forward pass; of a model, whose formula is not known, n d^2.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

from depprobe.cli.commands.sweep.keys import Keys, Settings

#: length and width where none is said
_N, _D = 1000, 512


def work_of(keys: Keys, settings: Settings) -> float:
    """FLOPs of one forward pass, times the number of inputs and weights that the cell measures."""
    n, d = (_largest(settings, name, default) for name, default in (("n", _N), ("d", _D)))
    draws = _largest(settings, "samples", 1) * _largest(settings, "seeds", 1)
    flops = None
    if keys.probe == "spectrum" and "steps" not in settings.values:
        flops = 10.0 * d**3
    elif "layer" in dict(settings.subject):
        flops = _flops(dict(settings.subject)["layer"], n, d)
    return draws * (flops or float(n) * d**2)


def _largest(settings: Settings, name: str, default: int) -> int:
    """The largest size that a cell asks for; the default where it is not a number."""
    value: Any = settings.values.get(name, default)
    pieces = value if isinstance(value, list) else str(value).split(",")
    try:
        return max(1, *(int(piece) for piece in pieces))
    except (TypeError, ValueError):
        return default


@lru_cache(maxsize=4096)
def _flops(layer: str, n: int, d: int) -> float | None:
    found = _formula(layer, n, d)
    return None if found is None else float(found)


def _formula(layer: str, n: int, d: int) -> int | None:
    import torch

    from depprobe.complexity import complexity
    from depprobe.registry import Spec, layers

    spec = Spec.parse(layer)
    try:
        with torch.device("meta"):
            found = complexity(layers[spec.name].build(d, **spec.options()), n)
    except Exception:  # sizes that a layer refuses are told when the cell is measured
        return None
    return None if found is None else found.total


def bytes_of(keys: Keys, cells: Sequence[Settings]) -> list[float | None]:
    """Bytes of one forward and backward pass of each cell, with weights and input; None for a model."""
    sizes = [_size(keys, one) for one in cells]
    lengths: dict[tuple[str, int, str], set[int]] = {}
    for kind, n in filter(None, sizes):
        lengths.setdefault(kind, set()).add(n)
    known = {kind: _bytes(*kind, sorted(every)) for kind, every in lengths.items()}
    return [known[size[0]].get(size[1]) if size else None for size in sizes]


def _size(keys: Keys, settings: Settings) -> tuple[tuple[str, int, str], int] | None:
    """Layer, width and dtype of a cell, and its length."""
    named = dict(settings.subject)
    if "layer" not in named:
        return None
    n, d = (_largest(settings, name, default) for name, default in (("n", _N), ("d", _D)))
    return (named["layer"], d, str(keys.at(settings, "dtype"))), n


def _bytes(layer: str, d: int, dtype: str, lengths: Sequence[int]) -> dict[int, float]:
    import torch

    from depprobe.costs.memory import predicted_bytes_at
    from depprobe.registry import Spec, layers

    spec = Spec.parse(layer)
    kind = torch.float32 if dtype == "float32" else torch.float64
    build = partial(layers[spec.name].build, d, **spec.options())
    found = predicted_bytes_at(build, lengths, d, kind, "forward+backward")
    return dict(zip(lengths, found or [], strict=False))
