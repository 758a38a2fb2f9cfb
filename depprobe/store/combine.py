r"""Jacobian datasets of several runs as one, over ``layer`` and, where a label repeats, over ``seed``.

    A (target, source), B (seed, target, source)  ->  (layer, seed, target, source)

Targets, sources, seeds and samples are those of all together; what a run has not measured has the status
``not_measured``. Attributes in which the runs differ become coordinates on ``layer``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from depprobe.curves.banded import dense
from depprobe.errors import BadInput
from depprobe.store.contract import validate
from depprobe.store.labelled import completed
from depprobe.units import counted
from depprobe.vocabulary import ABOUT, KINDS, SCHEMA_VERSION, STATUS, describe

#: where a run has no such variable: beside an estimate, an exact norm errs by nothing
_ABSENT = {"log_norm_error": 0.0, "log_norm_stderr": 0.0, "effective_rank": np.nan, "probe_loading": np.nan}
_ABSENT |= {"trajectory_digits": np.nan}
_ENDS = ("log_norm_low", "log_norm_high")
#: attributes that may differ between layers
_VARYING = ("method", "tolerance", "of", "wrt", "n", "d", "dtype", "probes", "deflated", "seed", "kind")
#: those in which draws of one label agree
_ALIKE = tuple(name for name in _VARYING if name not in ("n", "seed"))
_APART = "tell the runs apart with labels=[...]"
_ORDER = ("layer", "seed", "sample", "depth", "target", "source")


def combine(datasets: Iterable[xr.Dataset], labels: Sequence[str] | None = None) -> xr.Dataset:
    """Join Jacobian datasets of runs of your own into one, to compare, save and draw.

    Parameters
    ----------
    datasets : what ``depprobe.jacobian`` gave, of any lengths, targets, widths, layers and seeds.
    labels : a name for each layer of each dataset, in order; by default their own. Runs of one label are
        joined along ``seed``, in which they must differ, and in nothing else but lengths and targets.

    Returns
    -------
    A dataset over (layer, seed, sample, depth, target, source), without dimensions of a single entry.

    Raises
    ------
    BadInput : not Jacobian datasets; they differ in the norm or the number of depths; one label twice with
        the same seed, or measured in different ways; labels that are no text, or a wrong number of them.

    Examples
    --------
    >>> from depprobe import jacobian
    >>> ds = combine([jacobian("gru", n=n, d=4) for n in (20, 30)], labels=["short", "long"])
    >>> dict(ds.log_norm.sizes), ds.n.values.tolist()
    ({'layer': 2, 'target': 2, 'source': 30}, [20, 30])
    """
    single = isinstance(datasets, xr.Dataset | Mapping | str) or getattr(datasets, "ndim", 1) == 0
    if single or not isinstance(datasets, Iterable):
        way = "; labels=[...] names their layers" if isinstance(datasets, dict) else ""
        raise BadInput(f"combine takes a list of datasets, [a, b], not one {type(datasets).__name__}{way}")
    parts = [part for i, ds in enumerate(datasets, 1) for part in _layers_of(ds, i)]
    if not parts:
        raise BadInput("combine takes a list of datasets, [a, b], not an empty one")
    own = [str(part.attrs["layer"]) for part in parts]
    labels = np.asarray(labels).tolist() if hasattr(labels, "__array__") else labels
    if labels is not None and (not isinstance(labels, list | tuple) or len(labels) != len(parts)):
        raise BadInput(
            f"labels must be a list of {counted(len(parts), 'name')}, one a layer of each dataset: {own}"
        )
    names = own if labels is None else list(labels)
    for label in names:
        if not isinstance(label, str) or not label.strip():
            raise BadInput(f"a label must be text, not {label!r}")
    _require_alike(parts)
    shaped = _on_common_positions(parts)
    layers = list(dict.fromkeys(names))
    groups = [[p for p, name in zip(shaped, names, strict=True) if name == layer] for layer in layers]
    joined = [_over_seeds(layer, group) for layer, group in zip(layers, groups, strict=True)]
    if all(one.sizes["seed"] == 1 for one in joined):
        joined = [one.isel(seed=0, drop=True) for one in joined]
    ds = _side_by_side(joined, layers)
    ds.attrs = _attributes(ds, parts, layers)
    # it was read from none of their files
    ds.encoding = {}
    return ds


def _layers_of(ds: Any, number: int) -> list[xr.Dataset]:
    """The layers of a dataset, what is said of each in its attributes alone."""
    if not isinstance(ds, xr.Dataset) or "log_norm" not in ds:
        known = (kind for kind, only in KINDS.items() if isinstance(ds, xr.Dataset) and only in ds)
        what = next((f"a dataset of {kind}" for kind in known), type(ds).__name__)
        way = "; depprobe.load reads a file" if isinstance(ds, str | Path) else ""
        raise BadInput(f"combine takes Jacobian datasets, with log_norm; number {number} is {what}{way}")
    if ds["log_norm"].size == 0:
        raise BadInput(f"number {number}: log_norm is empty: {dict(ds['log_norm'].sizes)}")
    ds = completed(ds)
    try:
        validate(ds)
    except BadInput as error:
        raise BadInput(f"number {number}: {error}") from None
    if "lag" in ds.dims:
        ds = dense(ds)
    kind = ds["log_norm_error"].attrs.get("kind") if "log_norm_error" in ds else None
    if kind is not None and "kind" not in ds.coords:
        ds = ds.assign_attrs(kind=kind)
    if "layer" not in ds.dims:
        return [_said(ds)]
    return [_said(ds.isel(layer=i)) for i in range(ds.sizes["layer"])]


def _said(part: xr.Dataset) -> xr.Dataset:
    single = {str(name): value.item() for name, value in part.coords.items() if value.ndim == 0}
    return part.drop_vars(single).assign_attrs(single)


def _require_alike(parts: Sequence[xr.Dataset]) -> None:
    for what, values in (
        ("the norm", [part.attrs["norm"] for part in parts]),
        ("the number of depths", [part.sizes.get("depth", 0) for part in parts]),
    ):
        if len(set(values)) > 1:
            said = ", ".join(f"{v} in number {i}" for i, v in enumerate(values, 1))
            raise BadInput(f"datasets that differ in {what} cannot be combined: {said}; combine those alike")


def _on_common_positions(parts: Sequence[xr.Dataset]) -> list[xr.Dataset]:
    """All parts over the same targets, sources and samples, with a seed, and the same variables."""
    targets = np.unique(np.concatenate([part["target"].values for part in parts]))
    sources = np.arange(max(int(part["source"].max()) for part in parts) + 1)
    samples = range(max(part.sizes.get("sample", 1) for part in parts))
    known = {
        int(t): float(p)
        for part in parts
        if "position" in part.coords
        for t, p in zip(part["target"].values, part["position"].values, strict=True)
    }
    wanted = {name for part in parts for name in map(str, part.data_vars)}
    shaped = []
    for part in parts:
        # lags follow from the common positions
        one = part.drop_vars([n for n in ("source_token", "target_token", "lag") if n in part.coords])
        for name, first in (("sample", 0), ("seed", int(part.attrs.get("seed", 0)))):
            one = one if name in one.dims else one.expand_dims({name: [first]})
        like = one["log_norm"]
        for absent in sorted(wanted - {str(name) for name in one.data_vars}):
            one[absent] = like if absent in _ENDS else xr.full_like(like, _ABSENT.get(absent, np.nan))
        over = {"target": targets, "source": sources, "sample": list(samples)}
        placed = one.reindex(over, fill_value={"log_norm_status": STATUS["not_measured"]})
        if known:
            own = one["position"].to_series().to_dict() if "position" in one.coords else {}
            elsewhere = known if own else {}
            place = [own.get(t, elsewhere.get(t, np.nan)) for t in targets.tolist()]
            placed = placed.assign_coords(position=("target", place))
        shaped.append(placed)
    tokens = {tuple(map(str, p["source_token"].values)) if "source_token" in p.coords else () for p in parts}
    words = tokens.pop() if len(tokens) == 1 else ()
    if not words:
        return shaped
    names: dict[Any, Any] = {"source_token": ("source", words)}
    if targets.max() < len(words):
        names["target_token"] = ("target", [words[t] for t in targets])
    return [one.assign_coords(names) for one in shaped]


def _over_seeds(label: str, group: Sequence[xr.Dataset]) -> xr.Dataset:
    seeds = [int(seed) for one in group for seed in one["seed"].values]
    twice = [seed for seed in dict.fromkeys(seeds) if seeds.count(seed) > 1]
    if twice:
        raise BadInput(f"{label!r} comes twice with seed {twice[0]}; {_APART}")
    for name in _ALIKE:
        values = list(dict.fromkeys(str(one.attrs.get(name)) for one in group))
        if len(values) > 1:
            raise BadInput(f"runs of {label!r} differ in {name}: {', '.join(values)}; {_APART}")
    if len(group) == 1:
        return group[0]
    if len({n for one in group for n in _lengths(one)}) > 1:
        group = [_with_lengths(one) for one in group]
    return _concat(group, "seed").sortby("seed")


def _side_by_side(joined: Sequence[xr.Dataset], layers: Sequence[str]) -> xr.Dataset:
    values = {name: [one.attrs.get(name) for one in joined] for name in _VARYING}
    if "seed" in joined[0].dims:
        del values["seed"]
    if any("n" in one.coords for one in joined):
        del values["n"]
        joined = [_with_lengths(one) for one in joined]
    ds = _concat(joined, "layer") if len(joined) > 1 else joined[0]
    if "n" in ds.coords:
        # of seeds that a layer lacks nothing is measured, at any length
        ds = ds.assign_coords(n=ds["n"].fillna(ds["n"].max("seed")).astype(np.int64))
    if len(joined) > 1:
        if "position" in ds.coords and ds["position"].ndim == 2:
            place = ds["position"].transpose("layer", "target")
            same = bool((place == place[0]).all())
            ds = ds.assign_coords(position=place[0].drop_vars("layer", errors="ignore") if same else place)
        ds = ds.assign_coords(layer=("layer", list(layers)))
        for name, each in values.items():
            # methods stand beside the layers even where they agree
            if len(set(map(str, each))) > 1 or name in ("method", "tolerance", "kind"):
                fill = "" if any(isinstance(one, str) for one in each) else 0
                ds = ds.assign_coords({name: ("layer", [fill if one is None else one for one in each])})
    ds = ds.squeeze([name for name in ("sample", "depth") if ds.sizes.get(name) == 1], drop=True)
    ds = ds.transpose(*(dim for dim in _ORDER if dim in ds.dims))
    for key, variable in ds.data_vars.items():
        variable.attrs = describe(str(key)) if key in ABOUT else variable.attrs
    ds = completed(ds)
    if len(joined) == 1 and joined[0].attrs.get("kind") and "log_norm_error" in ds:
        ds["log_norm_error"].attrs["kind"] = joined[0].attrs["kind"]
    return ds


def _lengths(one: xr.Dataset) -> list[int]:
    """The length of each seed's input, of one layer."""
    if "n" in one.coords:
        return [int(n) for n in one["n"].values]
    return [int(one.attrs["n"])] * one.sizes["seed"]


def _with_lengths(one: xr.Dataset) -> xr.Dataset:
    return one.assign_coords(n=("seed", _lengths(one)))


def _concat(parts: Sequence[xr.Dataset], dim: str) -> xr.Dataset:
    return xr.concat(
        parts,
        dim=dim,
        data_vars="all",
        coords="different",
        compat="equals",
        join="outer",
        fill_value={"log_norm_status": STATUS["not_measured"]},
        combine_attrs="override",
    )


def _attributes(ds: xr.Dataset, parts: Sequence[xr.Dataset], layers: Sequence[str]) -> dict[str, Any]:
    attrs = {
        name: value
        for name, value in parts[0].attrs.items()
        if name not in ds.coords and all(str(part.attrs.get(name)) == str(value) for part in parts)
    }
    named = ", ".join(layers)
    runs = [json.loads(part.attrs["provenance"]) for part in parts]
    record = {"command": f"depprobe.combine({named})", "runs": runs}
    if "log_norm_error" in ds:
        attrs.pop("kind", None)
    for name, join in (("log_floor", max), ("horizon_lag", min)):
        held = [part.attrs[name] for part in parts if name in part.attrs]
        attrs |= {name: join(held)} if held else {}
    proofs = {proof for part in parts for proof in part.attrs.get("zero_proof", "").split("; ") if proof}
    attrs |= {"zero_proof": "; ".join(sorted(proofs))} if proofs else {}
    if "seed" in ds.dims:
        attrs["seed"] = int(ds["seed"].min())
    versions = {part.attrs["depprobe_version"] for part in parts}
    lengths = (
        {}
        if "n" in ds.coords and "seed" in ds["n"].dims
        else {"n": max(int(part.attrs["n"]) for part in parts)}
    )
    return attrs | {
        "title": f"Temporal Jacobian of {named}",
        "layer": named,
        **lengths,
        "depprobe_version": ", ".join(sorted(versions)),
        "schema_version": SCHEMA_VERSION,
        "provenance": json.dumps(record, sort_keys=True),
    }
