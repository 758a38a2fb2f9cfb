"""What a page says of a folder: each dataset summarised, drawn and named, and why others are missing.

Cells of a Jacobian sweep that differ in layer and seed alone are joined, so that seeds are pooled; every
other dataset stands for itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import click
import numpy as np
import xarray as xr

from depprobe.cli import output
from depprobe.cli.commands.report.drawn import pictures
from depprobe.cli.result_table import merged
from depprobe.cli.stored_dataset import read, read_all
from depprobe.cli.summaries import kind_of, summary_of
from depprobe.cli.tables import MISSING
from depprobe.curves import decay_curve
from depprobe.curves.align import REPEATS, each_curve
from depprobe.errors import BadInput
from depprobe.report import Curve, Page, Source, Table
from depprobe.report.curves import MOST
from depprobe.store.combine import combine
from depprobe.store.sweeps.folder import DAMAGED, MEASURED, PLAN, SweepFolder
from depprobe.units import counted
from depprobe.vocabulary import COMPUTED

#: most datasets that one page tells of
MOST_DATASETS = 400
Item = TypeVar("Item")
#: datasets that one note names, and what a note has in parentheses
MOST_NAMED, _ASIDE = 12, re.compile(r" \([^)]*\)")
_AXIS = "layer"
#: kinds that a page does not tell of
NO_PAGE = dict.fromkeys(COMPUTED, "it was computed of a dataset that was measured; a page tells of that one")
_JOINED = (_AXIS, *REPEATS)


#: called with (stages done, stages in all, what is under way)
Progress = Callable[[float, int, str], None]
_STAGES = ("reading dataset", "curve", "summary", "figure")


class Each(Protocol):
    """Gives items in turn, and tells how far the stage of the page that needs them is."""

    def __call__(self, items: Iterable[Item], stage: str) -> Iterator[Item]: ...


@dataclass(frozen=True)
class Result:
    """A dataset, and what tells it from the others: axis -> value."""

    at: dict[str, str]
    ds: xr.Dataset

    @property
    def name(self) -> str:
        """What tells it from the others, on one line."""
        return ", ".join(f"{axis} = {value}" for axis, value in self.at.items())


@dataclass
class Found:
    """What a folder holds."""

    facts: dict[str, str]
    sources: list[Source] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    unread: int = 0
    left_out: list[str] = field(default_factory=list)
    sweep: Path | None = None


def page_of(
    folder: Path, title: str | None = None, explore: bool = True, progress: Progress | None = None
) -> tuple[Page, int]:
    """The page on a folder, and how many of its files could not be read.

    ``progress`` is called with (stages done, stages in all, what is under way).

    Raises
    ------
    BadInput : the folder holds no dataset that can be read.
    """

    def each(items: Iterable[Item], stage: str) -> Iterator[Item]:
        known, before = list(items), _STAGES.index(stage)
        for done, item in enumerate(known):
            if progress:
                progress(before + done / len(known), len(_STAGES), f"{stage} {done + 1} of {len(known)}")
            yield item

    found = _swept(folder, each) if (folder / PLAN).is_file() else _stored(folder, each)
    curves, more = _curves(found.results, each) if explore else ([], 0)
    if more:
        found.left_out.append(f"curves to explore: {MOST} of {MOST + more}")
    tables = _tables(found, each)
    page = Page(
        title=title or f"Results in {folder.resolve().name}",
        facts=found.facts,
        curves=curves,
        tables=tables,
        pictures=pictures(found, each),
        sources=found.sources,
        missing=found.missing,
        left_out=found.left_out,
        explore=explore,
    )
    return page, found.unread


def _stored(folder: Path, each: Each) -> Found:
    """The datasets of a plain folder."""
    datasets, faults = read_all([folder], NO_PAGE, partial(each, stage="reading dataset"))
    kept = dict(list(datasets.items())[:MOST_DATASETS])
    kinds = dict.fromkeys(map(kind_of, kept.values()))
    found = Found({"datasets": f"{len(datasets)} of {', '.join(kinds)}"}, unread=len(faults))
    found.missing = {file.name: why for file, why in faults.items()}
    for file, ds in kept.items():
        found.sources.append(Source(file.name, str(file), output.attributes_of(ds)))
        found.results.append(Result({"file": file.name}, ds))
    return _told(found, folder, kept.values(), len(datasets))


def _swept(folder: Path, each: Each) -> Found:
    """The cells of a sweep."""
    of = SweepFolder(folder)
    plan = of.plan()
    found, cells, measured = Found({}, sweep=folder), list[Result](), 0
    for cell in each(plan.cells, "reading dataset"):
        at = {axis: str(value) for axis, value in cell.at.items()}
        name = Result(at, xr.Dataset()).name
        state = of.state(cell)
        if state != MEASURED:
            found.missing[name] = of.reason(cell)
            found.unread += state == DAMAGED
            continue
        measured += 1
        if len(cells) == MOST_DATASETS:
            continue
        try:
            ds = read(of.data(cell), NO_PAGE)
        except BadInput as error:
            found.missing[name] = " ".join(str(error).split())
            found.unread += 1
            measured -= 1
            click.echo(f"depprobe: {found.missing[name]}", err=True)
            continue
        found.sources.append(Source(name, str(of.data(cell)), output.attributes_of(ds)))
        cells.append(Result(at, ds))
    if not cells:
        said = next(iter(found.missing.values()), "no cell")
        raise BadInput(f"no cell in {str(folder)!r} is measured yet; the first: {said}")
    found.facts["sweep"] = f"{plan.probe}, {measured} of {counted(len(plan.cells), 'cell')} measured"
    for axis in plan.axes:
        found.facts[axis] = ", ".join(dict.fromkeys(str(cell.at[axis]) for cell in plan.cells))
    found.results = _joined(cells) if plan.probe == "jacobian" else cells
    found.facts["in Python"] = f"depprobe.open_sweep({str(folder)!r})"
    return _told(found, folder, [one.ds for one in cells], measured)


def _told(found: Found, folder: Path, shown: Iterable[xr.Dataset], there: int) -> Found:
    """With what is said of every folder."""
    versions = dict.fromkeys(str(ds.attrs.get("depprobe_version", "unknown")) for ds in shown)
    found.facts |= {"folder": str(folder), "measured with": f"depprobe {', '.join(versions)}"}
    if there > len(found.sources):
        found.left_out.append(f"datasets: {len(found.sources)} of {there}")
    return found


def _joined(cells: Sequence[Result]) -> list[Result]:
    """Cells that differ in layer and seed alone as one."""
    groups: dict[tuple[tuple[str, str], ...], list[Result]] = {}
    for one in cells:
        rest = {axis: value for axis, value in one.at.items() if axis not in _JOINED}
        groups.setdefault(tuple(rest.items()), []).append(one)
    results = []
    for common, group in groups.items():
        named = [one.at.get(_AXIS, str(one.ds.attrs.get(_AXIS, "?"))) for one in group]
        try:
            results.append(Result(dict(common), combine([one.ds for one in group], labels=named)))
        except BadInput:
            # layers of different depths, say, stand each for themselves
            results += group
    return results


def _tables(found: Found, each: Each) -> list[Table]:
    """One table for each kind of dataset, a row for each of its layers."""
    kinds: dict[str, list[Result]] = {}
    for one in found.results:
        kinds.setdefault(kind_of(one.ds), []).append(one)
    return [table for kind, results in kinds.items() for table in _table(kind, results, found.left_out, each)]


def _table(kind: str, results: Sequence[Result], left_out: list[str], each: Each) -> list[Table]:
    leads, summaries = list[dict[str, str]](), list[output.Summary]()
    notes = list[tuple[str, str]]()
    for one in each(results, "summary"):
        try:
            summaries.append(summary_of(one.ds))
        except BadInput as error:
            left_out.append(f"{one.name}: {error}")
            continue
        notes += [(note, one.name) for note in summaries[-1].notes]
        leads += [{k: v for k, v in one.at.items() if k != _AXIS}] * len(summaries[-1].columns)
    if not summaries:
        return []
    whole = merged(_alike(summaries))
    axes = list(dict.fromkeys(axis for lead in leads for axis in lead))
    rows = [
        ["–" if words == MISSING else words for words in (*(lead.get(axis, "") for axis in axes), *column)]
        for lead, column in zip(leads, whole.columns, strict=True)
    ]
    title = whole.title if kind in whole.title.lower() else f"{kind}: {whole.title}".removesuffix(": ")
    return [Table(title, [*axes, *whole.headings], rows, _noted(notes)[:MOST])]


def _noted(notes: Sequence[tuple[str, str]]) -> list[str]:
    """Notes on datasets, by name, each once: of those that differ in parentheses, and of those that are not
    on all, what they are notes on.
    """
    groups: dict[str, dict[str, None]] = {}
    about: dict[str, dict[str, None]] = {}
    for note, name in notes:
        pattern = _ASIDE.sub("\0", note, count=1)
        groups.setdefault(pattern, {})[note] = None
        about.setdefault(pattern, {})[name] = None
    every = {name for _, name in notes}
    said = list[str]()
    for pattern, alike in groups.items():
        names = [*about[pattern]]
        more = f"; {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        named = f"{'; '.join(names[:MOST_NAMED])}{more}"
        if len(alike) > 1:
            said.append(pattern.replace("\0", f" ({named})"))
        else:
            (note,) = alike
            said.append(note if len(names) == len(every) else f"{named}: {note}")
    return said


def _alike(summaries: Sequence[output.Summary]) -> list[output.Summary]:
    """Summaries whose norms at different lags stand in one column."""
    shared = set.intersection(*(set(one.headings) for one in summaries))

    def headings(one: output.Summary) -> list[str]:
        words = iter(("norm at nearest lag", "norm at farthest lag"))
        ends = {head: next(words) for head in one.headings if re.fullmatch(r"norm at \w+ ?\w* ?\d*", head)}
        return [head if head in shared else ends.get(head, head) for head in one.headings]

    return [replace(one, headings=headings(one)) for one in summaries]


def _curves(results: Sequence[Result], each: Each) -> tuple[list[Curve], int]:
    """The decay curves of Jacobian datasets, as many as one plot tells apart, and how many more there are."""
    held = [one for one in results if kind_of(one.ds) == "jacobian"]
    several = len(held) > 1
    curves, more = list[Curve](), 0
    for one in each(held, "curve"):
        if len(curves) >= MOST:
            more += one.ds.sizes.get("layer", 1) * one.ds.sizes.get("depth", 1)
            continue
        for part in each_curve(decay_curve(one.ds)):
            known = part["count"].values > 0
            if known.any():
                curves.append(_curve(part.isel(lag=known), one.at if several else {}))
    return curves[:MOST], more + max(0, len(curves) - MOST)


def _curve(part: xr.Dataset, at: dict[str, str]) -> Curve:
    layer = str(part[_AXIS].item() if _AXIS in part.coords else part.attrs.get(_AXIS, "?"))
    depth = {"depth": str(part["submodule"].item())} if "submodule" in part.coords else {}
    at = {_AXIS: layer} | depth | {axis: value for axis, value in at.items() if axis != _AXIS}
    name = ", ".join(
        [layer, *(v if k in ("depth", "file") else f"{k} = {v}" for k, v in list(at.items())[1:])]
    )
    low, high = (map(output.power_of_ten, part[end].values) for end in ("log_low", "log_high"))
    errors = part["log_norm_error"].values if "log_norm_error" in part else np.full(part.sizes["lag"], np.nan)
    return Curve(
        name=name,
        at=at,
        lag=part["lag"].values.astype(np.int64),
        ln=part["log_median"].values.astype(np.float64),
        norm=[output.power_of_ten(value) for value in part["log_median"].values],
        band=[f"{a} to {b}" for a, b in zip(low, high, strict=True)],
        error=["not known" if np.isnan(value) else f"{value:.1e} (relative)" for value in errors],
    )
