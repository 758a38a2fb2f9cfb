"""The summary of a Jacobian dataset: norms at the ends of the curve, its form, and distances."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from depprobe.cli.output import Summary, power_of_ten, said, with_interval
from depprobe.curves import decay_curve, distances
from depprobe.curves.align import UNKNOWN, each_curve, in_words
from depprobe.curves.distance import FEWEST_LAGS
from depprobe.curves.form import NONE, UNDETERMINED, ZERO
from depprobe.curves.names import curve_name, numerator, repeats
from depprobe.units import counted
from depprobe.vocabulary import NORM_WORDS, STATUS

#: heading, unit, and the variable of ``distances`` behind each column
COLUMNS = (
    ("decay rate", "ln/step", "decay_rate"),
    ("half-life", "steps", "half_life"),
    ("mean distance", "steps", "mean_distance"),
    ("95 % range", "steps", "effective_range"),
)
#: what is printed where no form is named
_SAID = {NONE: "no form fits", ZERO: "zero everywhere"}
#: printed where a threshold is asked for
_THRESHOLD = "threshold_lag"
#: share of the normalised norms from which a lag or a source dominates, and ln of the factor by which lag 0
#: must stand out beside the next ones
_MOST, _STANDS_OUT = 0.5, math.log(3)


def summary(ds: xr.Dataset, **how: Any) -> Summary:
    """Table and notes of a dataset that ``depprobe.jacobian`` gave; ``how`` are options of ``distances``."""
    found = distances(ds, **how)
    rows = _records(ds, found, decay_curve(ds))
    headings = _headings(rows)
    columns = [_cells(row, _have_far_ends(rows)) for row in rows]
    if {"threshold", "relative_to"} & how.keys():
        about = "peak" if found.attrs["relative_to"] == "peak" else "lag 0"
        headings.append(f"below {found.attrs['threshold']:g} of {about} from (steps)")
        columns = [[*column, _printed(row, _THRESHOLD)] for column, row in zip(columns, rows, strict=True)]
    if any(row["unknown"] for row in rows):
        headings.append("norms not known")
        columns = [[*column, in_words(row) or "0"] for column, row in zip(columns, rows, strict=True)]
    return Summary(_title(ds), headings, columns, rows, _notes(ds, found))


def _records(ds: xr.Dataset, found: xr.Dataset, curve: xr.Dataset) -> list[dict[str, Any]]:
    """One row a layer and depth: norms at the smallest and largest lag, and distances with their errors."""
    # squares of estimates have the right mean, their medians are too low
    pooled = "log_rms" if "log_norm_stderr" in ds else "log_median"
    rows = []
    for here, line, by_lag in zip(*map(each_curve, (ds, found, curve)), strict=True):
        known = np.flatnonzero(np.asarray(by_lag["count"].values) > 0)
        known = known if len(known) else np.arange(by_lag.sizes["lag"])
        lags, norms = by_lag["lag"].values[known], by_lag[pooled].values[known]
        near, far = int(np.abs(lags).argmin()), len(lags) - 1
        row: dict[str, Any] = {
            "layer": curve_name(here),
            "method": str(
                here["method"].item() if "method" in here.coords else here.attrs.get("method", "?")
            ),
            "near_lag": int(lags[near]),
            "log_norm_near": float(norms[near]),
            "far_lag": int(lags[far]),
            "log_norm_far": float(norms[far]),
            **numbers_of(line),
        }
        rows.append(row)
    return rows


def numbers_of(line: xr.Dataset) -> dict[str, Any]:
    """Form and distances of one curve, with their errors, from what ``distances`` found."""
    row: dict[str, Any] = {
        "best_form": str(line["best_form"].item()),
        "alike": list(map(str, line["form"].values[line["alike"].values == 1])),
        # distances that were stored before a kind was told apart do not count it
        **{name: int(line[name].item()) if name in line else 0 for name in ("unknown", *UNKNOWN)},
    }
    for name in (*(name for *_, name in COLUMNS), _THRESHOLD):
        row[name] = float(line[name].item())
        row |= {f"{name}_{end}": line[f"{name}_{end}"].item() for end in ("stderr", "low", "high")}
    # the largest over targets, samples and seeds: no mean, so no standard error
    return row | {"receptive_field": float(line["receptive_field"].item())}


def _have_far_ends(rows: list[dict[str, Any]]) -> bool:
    """Whether some curve has a second end; the norm of a single lag is printed once."""
    return any(row["far_lag"] != row["near_lag"] for row in rows)


def _cells(row: dict[str, Any], far: bool) -> list[str]:
    """The printed cells of a summary row, in the order of the headings."""
    return [
        row["layer"],
        row["method"],
        power_of_ten(row["log_norm_near"]),
        *([power_of_ten(row["log_norm_far"])] if far else []),
        *cells_of(row),
    ]


def cells_of(row: dict[str, Any]) -> list[str]:
    """The printed form and distances of a row of ``numbers_of``."""
    return [
        _SAID.get(row["best_form"], row["best_form"]),
        *(_printed(row, name) for *_, name in COLUMNS),
        "-" if math.isnan(row["receptive_field"]) else f"{row['receptive_field']:.0f}",
    ]


def _printed(row: dict[str, Any], name: str) -> str:
    return with_interval(row[name], row[f"{name}_low"], row[f"{name}_high"])


def _headings(rows: list[dict[str, Any]]) -> list[str]:
    """Column headings; the lags at which norms stand are named where all rows share them."""

    def at(which: str, words: str) -> str:
        lags = {row[f"{which}_lag"] for row in rows}
        return f"norm at lag {lags.pop()}" if len(lags) == 1 else f"norm at {words} lag"

    ends = [at("near", "nearest"), *([at("far", "farthest")] if _have_far_ends(rows) else [])]
    distances_ = [f"{heading} ({unit})" for heading, unit, _ in COLUMNS]
    return ["layer", "method", *ends, "form", *distances_, "receptive field (steps)"]


def _title(ds: xr.Dataset) -> str:
    """One line that says what was measured."""
    targets = ds.sizes.get("target", 1)
    at = f"t = {ds['target'].values[0]}" if targets == 1 else f"{targets} targets"
    norm = NORM_WORDS.get(ds.attrs.get("norm", "fro"), "?")
    below = said(ds, "wrt") if "wrt" in {*ds.coords, *ds.attrs} else "x"
    sizes = [f"{name} = {said(ds, name)}" for name in ("n", "d") if name in {*ds.coords, *ds.attrs}]
    dtype = [said(ds, "dtype")] if "dtype" in {*ds.coords, *ds.attrs} else []
    known = [*sizes, at, repeats(ds) or "several seeds", *dtype, norm]
    return f"d{numerator(said(ds, 'of'))}_t/d{below}_k: {', '.join(known)}"


def _notes(ds: xr.Dataset, found: xr.Dataset) -> list[str]:
    """What a reader must know to take the numbers as they are meant."""
    lines = []
    if "log_norm_error" in ds and float(ds["log_norm_error"].max()) > 0:
        changed = f"{float(ds['log_norm_error'].max()):.1e} (relative)"
        if "estimate" in np.atleast_1d(ds.get("kind", ds["log_norm_error"].attrs.get("kind", "bound"))):
            lines.append(f"compression and rounding are estimated to have changed norms by up to {changed}")
        else:
            lines.append(f"compression and rounding changed no norm by more than {changed}")
    if "padding" in ds.attrs:
        lines.append(f"positions count real tokens; padding: {ds.attrs['padding']}")
    if "horizon_lag" in ds.attrs:
        lines.append(
            f"from lag {ds.attrs['horizon_lag']} on rounding in the forward pass has grown to the size of "
            "the states: these norms belong to a trajectory that floating-point numbers do not determine"
        )
    if "log_norm_stderr" in ds:
        lines.append(_probed(ds))
    if "log_floor" in ds.attrs:
        floor = power_of_ten(ds.attrs["log_floor"])
        lines.append(f"norms below {floor} that are not proved zero count as not known")
    lines += how_found(found)
    return [*lines, *itertools.chain.from_iterable(map(_warnings, each_curve(ds), each_curve(found)))]


def how_found(found: xr.Dataset) -> list[str]:
    """How form, intervals and distances were found, and what was left out."""
    left_out = [f"lags below {found.attrs['skip_lags']}"] if found.attrs["skip_lags"] else []
    left_out += (
        [f"the first {counted(found.attrs['skip_first'], 'source')}"] if found.attrs["skip_first"] else []
    )
    return [
        f"form chosen by BIC on ln {found.attrs['pooling']}; 95 % intervals by resampling "
        f"{found.attrs['resampled']}; mean and range weigh norm^{found.attrs['share_power']}, normalised"
        + (f", without {' and '.join(left_out)}" if left_out else "")
    ]


def _warnings(ds: xr.Dataset, found: xr.Dataset) -> list[str]:
    """What one curve's numbers do not tell, or do not tell alone."""
    lines, name = [], curve_name(ds)
    if len(at := _nan_targets(ds)):
        lines.append(
            f"{name}: the output is not a number (NaN) at {counted(len(at), 'target')}, the first at "
            f"t = {at[0]}: a division of 0 by 0, the logarithm or root of a negative number, or a difference "
            "of infinities, as after a state that overflowed"
        )
    best = str(found["best_form"].item())
    alike = [str(form) for form in found["form"].values[found["alike"].values == 1] if form != best]
    if best == NONE:
        lines.append(f"{name}: no form fits; a free curve is better than every one of them")
    elif best == ZERO:
        lines.append(f"{name}: every norm that counts is exactly zero")
    elif alike and best != UNDETERMINED:
        lines.append(f"{name}: {best} is indistinguishable from {', '.join(alike)} (BIC within 6)")
    lags = float(found["independent_lags"])
    if lags < FEWEST_LAGS and found.attrs["resampled_for_rates"] == "lag":
        lines.append(
            f"{name}: fewer than {FEWEST_LAGS} lags are independent ({int(lags)}), so the decay rate has no "
            "interval; measure several samples or seeds"
        )
    if float(found["lag_zero_share"]) > _MOST and float(found["lag_zero_excess"]) > _STANDS_OUT:
        lines.append(
            f"{name}: lag 0 alone holds {100 * float(found['lag_zero_share']):.0f} % of the normalised norms "
            "and stands out from the lags beside it, as a residual path makes it: --skip-lags 1 leaves it out"
        )
    if float(found["first_source_share"]) > _MOST:
        lines.append(
            f"{name}: the first token holds {100 * float(found['first_source_share']):.0f} % of the "
            "normalised norms: --skip-first 1 leaves it out"
        )
    return lines


def _nan_targets(ds: xr.Dataset) -> NDArray[np.int64]:
    """The targets at which some output is NaN."""
    if "log_norm_status" not in ds:
        return np.array([], dtype=np.int64)
    nan = ds["log_norm_status"] == STATUS["not_a_number"]
    lost = nan.any([dim for dim in nan.dims if dim != "target"])
    return np.atleast_1d(ds["target"].values)[np.atleast_1d(lost.values)]


def _probed(ds: xr.Dataset) -> str:
    """How many random probes estimated the norms, and how well."""
    probes = np.unique(ds["probes"].values if "probes" in ds.coords else ds.attrs["probes"])
    taken = int(np.max(ds.coords.get("deflated", ds.attrs.get("deflated", 0))))
    exactly = f", {taken} of them in directions taken exactly" if taken else ""
    low, rank, high = ds["effective_rank"].quantile([0.05, 0.5, 0.95]).values
    return (
        f"norms are estimates from orthonormal random probes, {' or '.join(map(str, probes[probes > 0]))} a "
        f"target{exactly}: standard error of a norm up to {float(ds['log_norm_stderr'].max()):.1e} "
        f"(relative), effective rank of the blocks {rank:.1f} (5 to 95 %: {low:.1f} to {high:.1f})"
    )
