"""Results as one table for a paper: what ``depprobe show --table`` prints, from Python. No torch here."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import xarray as xr

from depprobe.cli import tables
from depprobe.cli.output import Summary
from depprobe.cli.summaries import kind_of, summary_of
from depprobe.curves import distances
from depprobe.curves.align import each_curve
from depprobe.curves.names import told_apart
from depprobe.errors import BadInput, unknown


def table(
    results: xr.Dataset | Sequence[xr.Dataset] | Mapping[str, xr.Dataset],
    form: str = "text",
    *,
    rows: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    **how: Any,
) -> str:
    """Write measured results as one table: text, LaTeX (booktabs), Markdown or CSV.

    Parameters
    ----------
    results : a dataset; several of one kind side by side; or a mapping from titles to datasets, whose layers
        then stand in rows below each title.
    form : ``text``, ``latex``, ``markdown`` or ``csv``; the last has every number in full precision.
    rows : which quantities to show, by how their headings begin; None shows all.
    labels : one name for each layer, in their order; None keeps their own, told apart where they repeat.
    **how : options of ``depprobe.distances``, for Jacobian datasets.

    Returns
    -------
    The table; a number that is missing is an en dash.

    Raises
    ------
    BadInput : no dataset, datasets of different kinds, a form or row that there is not, a wrong number of
        labels.

    Examples
    --------
    >>> import depprobe
    >>> ds = depprobe.jacobian(["gru", "lstm"], n=30, d=5)
    >>> print(table(ds, "markdown", rows=["receptive field"]))
    |  | gru | lstm |
    | --- | ---: | ---: |
    | receptive field (steps) | 29 | 29 |
    """
    for what, names in (("rows", rows), ("labels", labels)):
        if names is not None and (isinstance(names, str) or not isinstance(names, Iterable)):
            raise BadInput(f"{what} must be a list of names, not {names!r}")
    if not isinstance(form, str) or form not in tables.TABLES:
        raise unknown("form", str(form), tables.TABLES)
    # a dataset is a mapping too
    given: Any = [results] if isinstance(results, xr.Dataset) else results
    titles = [str(title) for title in given] if isinstance(given, Mapping) else []
    several = isinstance(given, Iterable) and not isinstance(given, str)
    given = list(given.values() if isinstance(given, Mapping) else given) if several else [given]
    wrong = [type(one).__name__ for one in given if not isinstance(one, xr.Dataset)]
    if wrong or not given:
        raise BadInput(f"a table is made of datasets, not of {[*wrong, 'nothing'][0]}")
    known = inspect.signature(distances).parameters.keys() - {"ds"}
    for name in sorted(how.keys() - known):
        raise unknown("argument of table", name, {"form", "rows", "labels", *known})
    kinds = list(dict.fromkeys(map(kind_of, given)))
    if len(kinds) > 1:
        raise BadInput(f"one table holds one kind of dataset, not {' and '.join(kinds)}")
    summaries = [summary_of(ds, **how) for ds in given]
    whole = merged(summaries, titles) if titles else side_by_side(given, summaries)
    return tables.TABLES[form](tables.chosen(whole, rows, labels))


def merged(summaries: Sequence[Summary], groups: Sequence[str] = ()) -> Summary:
    """Summaries of one kind as one; what one of them does not tell is missing in its cells.

    ``groups`` are headings of the summaries, each of which then has its layers in rows below it.
    """
    headings: list[str] = []
    for one in summaries:
        place = 0
        for heading in one.headings:
            if heading not in headings:
                headings.insert(place, heading)
            place = headings.index(heading) + 1
    told = [dict(zip(one.headings, column, strict=True)) for one in summaries for column in one.columns]
    columns = [[cells.get(heading, tables.MISSING) for heading in headings] for cells in told]
    records = [record for one in summaries for record in one.records]
    said = [one.title.split(", ") for one in summaries]
    title = ", ".join(words for words in said[0] if all(words in each for each in said))
    whole = Summary(title, headings, columns, records, upright=summaries[0].upright)
    if not groups:
        return whole
    above = [group for group, one in zip(groups, summaries, strict=True) for _ in one.columns]
    return replace(whole, upright=True, groups=above)


def side_by_side(datasets: Sequence[xr.Dataset], summaries: Sequence[Summary]) -> Summary:
    """Summaries of datasets of one kind as one, names told apart by what differs where they repeat."""
    whole = merged(summaries)
    names = [column[0] for column in whole.columns]
    parts = [part for ds in datasets for part in each_curve(ds)]
    if len(set(names)) == len(names) or len(parts) != len(names):
        return whole
    return tables.chosen(whole, labels=told_apart(parts))
