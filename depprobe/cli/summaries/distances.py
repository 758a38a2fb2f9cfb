"""The summary of what ``depprobe.distances`` found: form, decay rate and distances, without the norms."""

from __future__ import annotations

from typing import Any

import xarray as xr

from depprobe.cli.output import Summary
from depprobe.cli.summaries.jacobian import COLUMNS, cells_of, how_found, numbers_of
from depprobe.curves.align import each_curve
from depprobe.curves.names import curve_name


def summary(found: xr.Dataset) -> Summary:
    """Table and notes of distances, one column a layer and depth."""
    rows: list[dict[str, Any]] = [{"layer": curve_name(one), **numbers_of(one)} for one in each_curve(found)]
    headings = ["layer", "form", *(f"{heading} ({unit})" for heading, unit, _ in COLUMNS)]
    headings.append("receptive field (steps)")
    columns = [[row["layer"], *cells_of(row)] for row in rows]
    return Summary(str(found.attrs.get("title", "distances")), headings, columns, rows, how_found(found))
