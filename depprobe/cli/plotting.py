"""Which figures a dataset gets.

A Jacobian gets its decay curves, and from 8 targets on the (t, k) heat map beside them; costs their growth,
and the speed-up beside it where they were timed with several numbers of threads; every other kind of dataset
the figure of its name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import xarray as xr

#: fewest targets for which rows make a picture
HEATMAP_FROM = 8
#: kind of dataset -> figures it can be drawn as, where there are several
FIGURES = {"jacobian": ("decay", "heatmap"), "cost": ("cost", "speedup", "efficiency")}
KINDS = ("auto", *dict.fromkeys(name for names in FIGURES.values() for name in names))


def path_of(path: Path, kind: str) -> Path:
    """Where one kind of figure goes whose dataset's first figure is at ``path``: there, or beside it."""
    first = kind == "auto" or any(names[0] == kind for names in FIGURES.values())
    return path if first else path.with_name(f"{path.stem}_{kind}{path.suffix}")


def figure_paths(path: Path, targets: int, kind: str = "auto") -> dict[str, Path]:
    """Where each kind of figure goes: the curve at ``path``, a heat map beside it."""
    if kind == "auto":
        beside = path_of(path, "heatmap")
        return {"decay": path} | ({"heatmap": beside} if targets >= HEATMAP_FROM else {})
    return {kind: path}


def draw(
    datasets: Sequence[xr.Dataset],
    files: Sequence[Path],
    path: Path,
    kind: str = "auto",
    theory: xr.Dataset | None = None,
) -> list[Path]:
    """Draw datasets into one figure of each kind, and return the paths written; theory over decay curves.

    ``files`` are where several datasets came from, which faults and labels name.
    """
    from depprobe.cli.summaries import files_by_kind
    from depprobe.errors import BadInput
    from depprobe.figures.drawing.saving import save

    named = list(zip(map(str, files), datasets, strict=True))
    kinds = files_by_kind(named)
    if len(kinds) > 1:
        raise BadInput(f"one figure shows one kind of dataset, not {' and '.join(kinds.values())}")
    (found,) = kinds
    known = FIGURES.get(found, (found,))
    if kind not in ("auto", *known):
        raise BadInput(f"a dataset of {found} can be drawn as {', '.join(known)}, not as {kind}")
    if found != "jacobian":
        chosen = {found if kind == "auto" else kind: path}
        if kind == "auto" and found == "cost" and all(ds.sizes.get("threads", 1) > 1 for ds in datasets):
            chosen["speedup"] = path_of(path, "speedup")
        return [save(_figure(one)(list(datasets)), where) for one, where in chosen.items()]
    if kind == "heatmap":
        # one row is no picture
        for name, ds in named:
            if ds.sizes.get("target", 1) < 2:
                raise BadInput(f"a heat map needs at least 2 targets; {name!r} has 1")
    targets = max(ds.sizes.get("target", 1) for ds in datasets)
    written = []
    for one, where in figure_paths(path, targets, kind).items():
        labels = _labels(datasets, [file.stem for file in files]) if len(datasets) > 1 else None
        extra = {"theory": theory} if one == "decay" and theory is not None else {}
        drawn = _figure(one)(list(datasets), labels=labels, **extra)
        written.append(save(drawn, where))
    return written


def _figure(name: str) -> Callable[..., Any]:
    """The function that draws one kind of figure."""
    from depprobe import figures
    from depprobe.ledger.costs import efficiency_figure

    return getattr(efficiency_figure if name == "efficiency" else figures, name)


def _labels(datasets: Sequence[xr.Dataset], names: Sequence[str]) -> list[str] | None:
    """Names of the files where the datasets' own layers do not tell them apart, else None."""
    own = [
        [str(layer) for layer in ds["layer"].values] if "layer" in ds.dims else [str(ds.attrs.get("layer"))]
        for ds in datasets
    ]
    flat = [layer for layers in own for layer in layers]
    if len(set(flat)) == len(flat):
        return None
    return [f"{layer} ({name})" for layers, name in zip(own, names, strict=True) for layer in layers]
