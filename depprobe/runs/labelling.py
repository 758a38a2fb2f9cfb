"""Results of many cases as one labelled dataset, which says how it came about: command, versions, input."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import math
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from depprobe._version import __version__
from depprobe.core.calling.arguments import HALF
from depprobe.errors import BadInput
from depprobe.operators import LogNorms
from depprobe.runs.cases import Case, Cases
from depprobe.runs.result import Result
from depprobe.vocabulary import ABOUT, SCHEMA_VERSION, STATUS, UNTOLD

#: variable of a Jacobian dataset -> the field of ``LogNorms``, and what stands where there is no block
_FIELDS: dict[str, tuple[str, float]] = {
    "log_norm": ("values", -np.inf),
    "log_norm_error": ("error", 0.0),
    "log_norm_stderr": ("stderr", 0.0),
    "log_norm_low": ("low", -np.inf),
    "log_norm_high": ("high", -np.inf),
    "effective_rank": ("rank", np.nan),
    "probe_loading": ("loading", np.nan),
    "log_norm_status": ("status", STATUS["zero"]),
    "trajectory_digits": ("digits", np.nan),
}
#: digits of a trajectory that are enough for it to be the one that was asked for
_DIGITS = 1.0
#: a look at a file, so once
_version_of = functools.cache(importlib.metadata.version)


def over_cases(
    results: Sequence[Mapping[str, NDArray]],
    dims: Mapping[str, tuple[str, ...]],
    lead: Mapping[str, Sequence[Any]],
    coords: Mapping[str, Any],
) -> xr.Dataset:
    """Arrays of every case as one dataset; dimensions of ``lead`` that hold a single entry are dropped.

    ``results`` hold name -> array of each case, in the order of ``lead``, the last of its dimensions fastest;
    ``dims`` are those of an array in one case; ``lead`` gives the labels that together number the cases.
    """
    # a dimension of a single entry has none
    sizes = {name: len(labels) for name, labels in lead.items() if len(labels) > 1}
    variables = {}
    for name, first in results[0].items():
        every = first if len(results) == 1 else [one[name] for one in results]
        variables[name] = (
            (*sizes, *dims[name]),
            np.reshape(every, (*sizes.values(), *np.shape(first))),
        )
    return described(xr.Dataset(variables, {**{name: list(lead[name]) for name in sizes}, **coords}))


def described(ds: xr.Dataset) -> xr.Dataset:
    """The dataset itself, its dimensions and variables with their ``long_name`` and ``units``."""
    for name in ds.variables:
        ds[name].attrs = ABOUT[str(name)]
    return ds


def origin(
    title: str, labels: Sequence[str], command: str, inputs: ArrayLike | None, **facts: Any
) -> dict[str, Any]:
    """The attributes that every dataset carries; ``facts`` are n, d, seed, dtype and further ones."""
    projected = {"input_projection": "fixed random"} if facts.pop("projected", False) else {}
    named = ", ".join(labels)
    return {
        "title": f"{title} of {named}",
        "layer": named,
        **facts,
        "depprobe_version": __version__,
        "schema_version": SCHEMA_VERSION,
        "provenance": provenance(command, inputs, **projected),
    }


def with_origin(ds: xr.Dataset, title: str, measured: Cases, command: str, **facts: Any) -> xr.Dataset:
    """A dataset with the attributes of ``origin``.

    A fact that is a list has a value for each layer: an attribute where all agree, else a coordinate.
    """
    facts["dtype"] = [case.dtype for case in measured.firsts(measured.cases)]
    lists = {name: value for name, value in facts.items() if isinstance(value, list)}
    apart = {name: ("layer", each, ABOUT[name]) for name, each in lists.items() if len({*each}) > 1}
    alike = {name: lists.get(name, [value])[0] for name, value in facts.items() if name not in apart}
    alike |= input_of(measured.cases)
    about = origin(title, measured.labels, command, numbers_of(measured.cases), **alike)
    return ds.assign_coords(apart).assign_attrs(about)


def input_of(cases: Sequence[Case]) -> dict[str, Any]:
    """What is known of how some cases came by their input, for ``origin``."""
    return {**cases[0].about, "projected": any(case.projected for case in cases)}


def provenance(command: str, x: ArrayLike | None = None, **details: str | int | float) -> str:
    """How a dataset came about, as one JSON string for the attribute ``provenance``.

    It holds no time, host or path of its own, so that the same command gives the same data bit for bit: the
    command, versions, the fingerprint of x where it is given, and details, such as the hash of the weights.
    """
    versions = {"depprobe": __version__, "numpy": np.__version__, "python": platform.python_version()}
    versions |= {"torch": _version_of("torch"), "xarray": xr.__version__}
    record: dict[str, Any] = {**details, "command": command, "versions": versions}
    if x is not None:
        record["input_sha256"] = fingerprint(x)
    return json.dumps(record, sort_keys=True)


def fingerprint(values: ArrayLike) -> str:
    """SHA-256 of an array's type, shape and values, the same on every machine.

    Examples
    --------
    >>> fingerprint([1.0, 2.0])[:8], fingerprint([[1.0, 2.0]])[:8]
    ('78706631', 'fd704a15')
    """
    array = np.asarray(values)
    if array.dtype.kind not in "biufc":
        raise BadInput(f"a fingerprint takes numbers, not {array.dtype}")
    array = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def numbers_of(cases: Sequence[Case]) -> np.ndarray:
    """All numbers of the inputs of some cases in a row, for their fingerprint."""
    parts = []
    for x in (case.given for case in cases):
        for value in [x] if isinstance(x, torch.Tensor) else [x[name] for name in sorted(x)]:
            if isinstance(value, torch.Tensor):
                # numpy knows no bfloat16
                plain = value.detach().cpu()
                parts.append((plain.float() if plain.dtype is torch.bfloat16 else plain).numpy().ravel())
            elif isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
                parts.append(value.ravel())
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.zeros(0)


def labelled(results: list[Result], measured: Cases, depths: Sequence[Sequence[str]] = ()) -> xr.Dataset:
    """Norms of all cases over (layer, seed, sample, depth, target, source or lag); single dimensions dropped.

    ``results`` come layer by layer, then seed by seed, sample by sample, and depth by depth.
    """
    n = results[0].shape[2]
    labels, lags = measured.labels, results[0].norms.lags
    per_layer = measured.firsts(results)
    banded = len(labels) == 1 and all(_same(one.norms.lags, lags) for one in results)
    norms = [one.norms if banded else over_sources(one.norms, one.position, n) for one in results]
    unknown = np.full(len(results[0].target), np.nan)
    position = np.stack([unknown if one.position is None else one.position for one in per_layer])
    column, at = ("lag", lags) if banded else ("source", np.arange(n))
    inside = _inside(position[0], lags, n) if lags is not None and banded else True

    columns: list[dict[str, NDArray]] = [{} for _ in norms]
    for name, (field, fill) in _FIELDS.items():
        given = [getattr(one, field) for one in norms]
        if field != "status" and all(values is None for values in given):
            continue
        if field == "digits" and not any((values < _DIGITS).any() for values in given if values is not None):
            continue
        for found, one, values in zip(columns, norms, given, strict=True):
            if field == "status":
                # what lies outside the sequence was not measured
                absent = np.isnan(one.values) & ~np.broadcast_to(inside, one.values.shape)
                told = np.take(UNTOLD, np.isneginf(one.values) + 2 * np.isnan(one.values))
                known = told if values is None else values
                values = np.where(absent, STATUS["not_measured"], known).astype(np.int8)
            if values is None:  # beside an estimate, an exact operator errs by nothing but round-off
                values = one.values if field in ("low", "high") else np.full_like(one.values, fill)
            found[name] = np.asarray(values)
            if field == "error" and (unknown := np.isnan(one.values)).any():
                found[name] = np.where(unknown, np.nan, found[name])
    deep = len(depths[0]) if depths else 0
    lead = measured.lead | ({"depth": range(deep)} if deep else {})
    coords: dict[str, Any] = {"target": results[0].target, column: at}
    if not np.isnan(position).all():
        shared = bool((position == position[0]).all())
        here, where = (position[0], ["target"]) if shared else (position, ["layer", "target"])
        coords["position"] = (where, here)
        if not banded:
            # as depprobe.vocabulary.at_lag_0 counts them
            kind = np.float64 if np.isnan(here).any() else np.int32
            lag = ((here + 0.5) // 1).astype(kind)[..., None] - np.asarray(at).astype(kind)
            coords["lag"] = ([*where, "source"], lag)
    tokens = {case.tokens for case in measured.cases}
    if len(tokens) == 1 and len(words := tokens.pop()) == n and not banded:
        coords["source_token"] = ("source", list(words))
        if results[0].shape[0] == n:
            coords["target_token"] = ("target", [words[t] for t in results[0].target])
    if any(one.tokens for one in results):
        lengths = [one.tokens or n for one in results[:: max(1, deep)]][: measured.samples]
        coords["tokens"] = ("sample", lengths) if len(lengths) > 1 else ((), lengths[0])
    symbols = [case.symbol for case in measured.firsts(measured.cases)]
    if len(set(symbols)) > 1:
        coords["symbol"] = ("layer", [symbol or "position" for symbol in symbols])
    if deep > 1:
        alike = all([*one] == [*depths[0]] for one in depths)
        coords["submodule"] = ("depth", [*depths[0]]) if alike else (("layer", "depth"), [*map(list, depths)])
    drawn = [name for name in ("probes", "deflated") if any(getattr(one, name) for one in per_layer)]
    said = ["method", "tolerance", *drawn]
    if len(labels) > 1:
        for name in said:
            coords[name] = ("layer", [getattr(one, name) for one in per_layer])
        if "log_norm_error" in columns[0]:
            coords["kind"] = ("layer", [one.error_kind for one in per_layer])
    dims = dict.fromkeys(columns[0], ("target", column))
    ds = over_cases(columns, dims, lead, coords)
    ds.attrs |= {"symbol": symbols[0]} if len(set(symbols)) == 1 and symbols[0] else {}
    if len(labels) == 1:
        ds.attrs |= {name: getattr(results[0], name) for name in said}
        if "log_norm_error" in ds:
            ds["log_norm_error"].attrs["kind"] = results[0].error_kind
    if "tokens" in ds.coords:
        read = sum(one.padding_read for one in results)
        ds.attrs["padding"] = f"{read} blocks not proved zero" if read else "read by no output"
    if "trajectory_digits" in ds:
        lost = ds["trajectory_digits"] < _DIGITS
        lag = ds["lag"] if "lag" in ds.coords else ds["target"] - ds[column]
        ds.attrs["horizon_lag"] = int(np.ceil(lag.where(lost).min()))
    proofs = sorted({one.zero_proof for one in per_layer if one.zero_proof})
    ds.attrs |= {"zero_proof": "; ".join(proofs)} if proofs else {}
    dtypes = [getattr(torch, case.dtype) for case in measured.firsts(measured.cases)]
    doubtful = bool(ds["log_norm_status"].isin([STATUS["underflow"], STATUS["undecided"]]).any())
    if doubtful or {*dtypes} & {*HALF}:
        least = max(math.log(torch.finfo(dtype).smallest_normal) for dtype in dtypes)
        ds.attrs["log_floor"] = max([least, *(one.log_floor for one in results if one.log_floor > least)])
    return ds


def _inside(position: NDArray[np.float64], lags: NDArray[np.int64], n: int) -> NDArray[np.bool_]:
    source = np.floor(position[:, None] - lags[None, :] + 0.5)
    return (source >= 0) & (source < n)


def _same(lags: NDArray | None, others: NDArray | None) -> bool:
    return lags is not None and others is not None and np.array_equal(lags, others)


def stacked(parts: list[LogNorms], position: NDArray[np.float64] | None, n: int) -> LogNorms:
    """Norms of successive targets as one; banded ones stay banded where all have the same lags."""
    if len(parts) == 1:
        return parts[0]
    lags = parts[0].lags
    if not all(_same(part.lags, lags) for part in parts):
        lags = None
        ends = np.cumsum([len(part.values) for part in parts])
        parts = [
            over_sources(part, None if position is None else position[end - len(part.values) : end], n)
            for part, end in zip(parts, ends, strict=True)
        ]

    def joined(field: str) -> NDArray | None:
        fields = [getattr(part, field) for part in parts]
        return None if any(values is None for values in fields) else np.concatenate(fields)

    return LogNorms(**{field: joined(field) for field, _ in _FIELDS.values()}, lags=lags)  # type: ignore[arg-type]


def over_sources(norms: LogNorms, position: NDArray[np.float64] | None, n: int) -> LogNorms:
    """Banded norms (targets, lags) as norms (targets, n), exact zeros elsewhere; others as they are."""
    if norms.lags is None:
        return norms
    assert position is not None, "lags were counted from positions"
    inside = _inside(position, norms.lags, n)
    source = np.floor(position[:, None] - norms.lags[None, :] + 0.5).astype(int)
    rows = np.nonzero(inside)[0]
    spread: dict[str, Any] = {}
    for field, fill in _FIELDS.values():
        values = getattr(norms, field)
        if values is not None:
            spread[field] = np.full((len(position), n), fill, values.dtype)
            spread[field][rows, source[inside]] = values[inside]
    return LogNorms(**spread)
