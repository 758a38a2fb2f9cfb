"""The efficiency table: a row for each layer, length and pass; ratios beside those of the article."""

from __future__ import annotations

from typing import Any

import xarray as xr

from depprobe.cli.output import Summary
from depprobe.cli.summaries.cost import disturbances
from depprobe.ledger.costs.efficiency_table import efficiency
from depprobe.units import counted

_DIMS = ("layer", "n", "phase")


def summary(ds: xr.Dataset) -> Summary:
    """Table and notes of a dataset that ``depprobe.cost`` gave at one width."""
    from depprobe.ledger.costs.efficiency_figure import HEADINGS, rows_of  # matplotlib takes a while to load

    table = efficiency(ds)
    reference, at = table.attrs["reference"], table.attrs["reference_n"]
    threads = f", {counted(int(ds['threads'].max()), 'thread')}" if "threads" in ds.coords else ""
    notes = [
        f"in brackets: over {reference} at n = {at}, in the same pass; only these compare between machines",
        "memory: most bytes of tensors alive at once, parameters and input apart",
        "path: layers plus steps from x_1 to h_n; parallelism: FLOPs over those of the longest chain",
        "article: RTX 3090, PyTorch 2.0; it does not say which pass, nor which attention",
        *disturbances(ds),
    ]
    title = f"Efficiency: d = {table.attrs['d']}, {table.attrs.get('dtype', '')}, batch 1{threads}"
    return Summary(title, list(HEADINGS), rows_of(table), _records(table), notes, upright=True)


def _records(table: xr.Dataset) -> list[dict[str, Any]]:
    stacked = table.stack(row=[dim for dim in _DIMS if dim in table.dims])
    names = [str(name) for name in table.data_vars]
    rows = []
    for i in range(stacked.sizes["row"]):
        one = stacked.isel(row=i)
        record = {dim: one[dim].item() for dim in _DIMS if dim in one.coords}
        rows.append(record | {name: one[name].item() for name in names})
    return [row for row in rows if row["time"] == row["time"]]
