"""What commands print: the summary table as text, LaTeX, CSV or JSON. No torch here."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import xarray as xr

from depprobe.errors import BadInput

LN10 = math.log(10)

#: heading, unit, and the variable of ``distances`` behind each column
_COLUMNS = (
    ("decay rate", "ln/step", "decay_rate"),
    ("half-life", "steps", "half_life"),
    ("mean distance", "steps", "mean_distance"),
    ("95 % range", "steps", "effective_range"),
    ("receptive field", "steps", "receptive_field"),
)


def power_of_ten(log: float) -> str:
    """A number given by its natural log, in scientific notation whatever its size.

    Examples
    --------
    >>> power_of_ten(-5000.0)
    '2.9e-2172'
    >>> power_of_ten(-math.inf)
    '0'
    """
    if math.isnan(log):
        return "unknown"
    if math.isinf(log):
        return "0" if log < 0 else "inf"
    exponent = math.floor(log / LN10)
    mantissa = 10 ** (log / LN10 - exponent)
    if round(mantissa, 1) >= 10:
        mantissa, exponent = 1.0, exponent + 1
    return f"{mantissa:.1f}e{exponent:+d}"


def summary(ds: xr.Dataset, found: xr.Dataset, curve: xr.Dataset) -> list[dict[str, Any]]:
    """One row a layer: the norm at the smallest and largest lag, and the distances with standard errors."""
    many = "layer" in ds.dims
    rows = []
    for index in range(ds.sizes["layer"] if many else 1):
        pick = {"layer": index} if many else {}
        here, line, by_lag = ds.isel(pick), found.isel(pick), curve.isel(pick)
        known = np.flatnonzero(np.asarray(by_lag["count"].values) > 0)
        lags, medians = by_lag["lag"].values[known], by_lag["log_median"].values[known]
        near, far = int(np.abs(lags).argmin()), len(lags) - 1
        row: dict[str, Any] = {
            "layer": str(ds["layer"].values[index]) if many else str(ds.attrs.get("layer", "?")),
            "method": str(
                here["method"].item() if "method" in here.coords else here.attrs.get("method", "?")
            ),
            "near_lag": int(lags[near]),
            "log_norm_near": float(medians[near]),
            "far_lag": int(lags[far]),
            "log_norm_far": float(medians[far]),
            "best_form": str(line["best_form"].item()),
            "unknown": int(line["unknown"].item()),
        }
        for _, _, name in _COLUMNS:
            row[name] = float(line[name].item())
            row[f"{name}_stderr"] = float(line[f"{name}_stderr"].item())
        rows.append(row)
    return rows


def cells(row: dict[str, Any], times: str = "e") -> list[str]:
    """The printed cells of a summary row, in the order of ``headings``."""

    def norm(name: str) -> str:
        text = power_of_ten(row[f"log_norm_{name}"])
        return text if times == "e" or "e" not in text else _latex_power(text)

    return [
        row["layer"],
        row["method"],
        norm("near"),
        norm("far"),
        row["best_form"],
        *(_with_error(row[name], row[f"{name}_stderr"]) for _, _, name in _COLUMNS),
    ]


def headings(rows: list[dict[str, Any]]) -> list[str]:
    """Column headings; the lags at which norms stand are named where all rows share them."""

    def at(which: str) -> str:
        lags = {row[f"{which}_lag"] for row in rows}
        return f"norm at lag {lags.pop()}" if len(lags) == 1 else f"norm at {which}est lag"

    return ["layer", "method", at("near"), at("far"), "form", *(f"{h} ({u})" for h, u, _ in _COLUMNS)]


def _with_error(value: float, error: float) -> str:
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "inf"
    if not math.isfinite(error) or error == 0:
        return f"{value:.4g}"
    places = max(0, min(6, 1 - math.floor(math.log10(error))))
    return f"{value:.{places}f} ± {error:.{places}f}"


def _latex_power(text: str) -> str:
    mantissa, exponent = text.split("e")
    return rf"${mantissa}\cdot 10^{{{int(exponent)}}}$"


def as_text(rows: list[dict[str, Any]], title: str) -> str:
    """The table as printed on a terminal, laid on its side where there are few layers."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for row in rows:
        table.add_column(row["layer"], justify="right", overflow="fold")
    for index, heading in enumerate(headings(rows)[1:], start=1):
        table.add_row(heading, *(cells(row)[index] for row in rows))
    if any(row["unknown"] for row in rows):
        table.add_row("unknown (zero or underflow)", *(str(row["unknown"]) for row in rows))
    out = io.StringIO()
    # as wide as the layers need: a table cut to a narrow terminal says less than one that wraps there
    Console(file=out, width=40 + 30 * len(rows), force_terminal=False).print(table)
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    return "\n".join([title, *filter(None, lines)])


def as_csv(rows: list[dict[str, Any]]) -> str:
    """The table as CSV with full precision; norms as natural logs."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().rstrip("\n")


def as_latex(rows: list[dict[str, Any]]) -> str:
    """The table as a LaTeX tabular (booktabs)."""

    def escaped(text: str) -> str:
        if "$" in text:
            return text
        for character in "&%_#":
            text = text.replace(character, "\\" + character)
        return text.replace("±", r"$\pm$").replace("inf", r"$\infty$")

    lines = [
        r"\begin{tabular}{l" + "r" * len(rows) + "}",
        r"\toprule",
        " & ".join(["", *(escaped(row["layer"]) for row in rows)]) + r" \\",
        r"\midrule",
    ]
    for index, heading in enumerate(headings(rows)[1:], start=1):
        lines.append(
            " & ".join([escaped(heading), *(escaped(cells(row, "tex")[index]) for row in rows)]) + r" \\"
        )
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def as_json(document: dict[str, Any]) -> str:
    """One JSON document; numbers that JSON lacks become null (NaN) or the strings "inf" and "-inf"."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple, np.ndarray)):
            return [plain(item) for item in value]
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, float) and not math.isfinite(value):
            return None if math.isnan(value) else "inf" if value > 0 else "-inf"
        return value

    return json.dumps(plain(document), indent=1, ensure_ascii=False)


TABLES: dict[str, Callable[[list[dict[str, Any]]], str]] = {"latex": as_latex, "csv": as_csv}


def check_writable(path: Path) -> None:
    """Refuse a path that cannot be written, before the work is done rather than after.

    Raises
    ------
    BadInput : the path is a folder, or its folder cannot be made or written to.
    """
    folder = path.parent
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if path.is_dir():
        raise BadInput(f"cannot write {str(path)!r}: it is a folder")
    if not existing.is_dir():
        raise BadInput(f"cannot write {str(path)!r}: {str(existing)!r} is not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise BadInput(f"cannot write {str(path)!r}: no permission in {str(existing)!r}")


def check_distinct(*paths: Path) -> None:
    """Refuse a call in which one file would overwrite another, or its own input.

    Raises
    ------
    BadInput : two of the paths name one file.
    """
    seen: set[str] = set()
    for path in paths:
        real = os.path.realpath(path)
        if real in seen:
            raise BadInput(f"{str(path)!r} is named twice; dataset, figure and input must be different files")
        seen.add(real)


def echo(text: str) -> None:
    """Print a result on stdout."""
    click.echo(text)


def title(ds: xr.Dataset) -> str:
    """One line that says what was measured."""
    facts = {"norm": "Frobenius norm" if ds.attrs.get("norm") == "fro" else "spectral norm"}
    targets = ds.sizes.get("target", 1)
    at = f"t = {ds['target'].values[0]}" if targets == 1 else f"{targets} targets"
    return (
        f"dh_t/d{ds.attrs.get('wrt', 'x')}_k: n = {ds.attrs.get('n')}, d = {ds.attrs.get('d')}, {at}, "
        f"seed {ds.attrs.get('seed')}, {ds.attrs.get('dtype')}, {facts['norm']}"
    )


def notes(ds: xr.Dataset, found: xr.Dataset) -> list[str]:
    """What a reader must know to take the numbers as they are meant."""
    lines = []
    if "log_norm_error" in ds and float(ds["log_norm_error"].max()) > 0:
        lines.append(
            f"compression changed no norm by more than {float(ds['log_norm_error'].max()):.1e} (relative)"
        )
    if "log_norm_stderr" in ds:
        worst = float(ds["log_norm_stderr"].max())
        lines.append(f"norms are estimates from random probes; standard error up to {worst:.1e} (relative)")
    if "log_floor" in ds.attrs:
        floor = power_of_ten(ds.attrs["log_floor"])
        lines.append(f"some zeros could not be told from an underflow below {floor}; they count as unknown")
    lines.append(
        f"form chosen by BIC on ln rms; standard errors by resampling {found.attrs.get('resampled')}; "
        f"shares are norm^{found.attrs.get('share_power')}"
    )
    return lines


def command_of(ds: xr.Dataset) -> str:
    """The command that a dataset's provenance records."""
    try:
        return str(json.loads(ds.attrs.get("provenance", "{}")).get("command", "unknown"))
    except ValueError:
        return "unknown"
