"""The schema of datasets: what each call returns, read off small results of the calls themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent.parent / "generated" / "schema.md"
HEAD = """\
# Datasets, variable by variable

Every call that measures returns an [xarray](https://docs.xarray.dev) `Dataset`, which `depprobe.save` (or
`--output` on the command line) writes as netCDF-4. This page lists what each holds. It is written from small
results of the calls themselves, so sizes and values are examples. Names, dimensions, types, units and
attributes are the schema, version {version}, on which other programs may rely. [Names in
datasets](vocabulary.md) explains every name.

A dimension of one entry is left out: a single layer has no `layer`, a single draw of weights no `seed`, one
input no `sample`. Where there are several, these stand before `target`, in this order: `layer`, `depth`,
`seed`, `sample`. All logarithms are natural.
"""


def results() -> Iterator[tuple[str, str, Any]]:
    """Title, the call, and what it returned."""
    import torch

    import depprobe

    small: dict[str, Any] = {"n": 12, "d": 8}
    row = depprobe.jacobian(["lstm", "attention:causal=true"], seeds=2, samples=2, **small)
    yield "A Jacobian", "depprobe.jacobian(layers, seeds=2, samples=2)", row
    band = depprobe.jacobian("conv:kernel=3", targets="all", **small)
    yield "A Jacobian of a band", 'depprobe.jacobian("conv", targets="all")', band
    probed = depprobe.jacobian("gru", method="probes", targets="all", probes=3, **small)
    yield "A Jacobian estimated by random probes", 'depprobe.jacobian("gru", method="probes", ...)', probed
    yield "A decay curve", "depprobe.decay_curve(ds)", depprobe.decay_curve(row)
    yield "Distances", "depprobe.distances(ds)", depprobe.distances(row)
    yield "A spectrum", 'depprobe.spectrum("gru")', depprobe.spectrum("gru", d=4, grid=5)
    exponents = depprobe.lyapunov(["lstm", "gru"], exponents=2, n=60, d=4)
    yield "Lyapunov exponents", 'depprobe.lyapunov(["lstm", "gru"])', exponents
    yield "Gates", 'depprobe.gates("lstm")', depprobe.gates("lstm", **small)
    timed: dict[str, Any] = {"threads": 1, "seconds": 0.001}
    cost = depprobe.cost(torch.nn.GRU(3, 4, batch_first=True), torch.zeros(6, 3), **timed)
    yield "Costs", "depprobe.cost(module, x)", cost


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def variables(ds: Any, names: list[str]) -> str:
    """Names, dimensions, types, units and meanings of some variables."""
    rows = []
    for name in names:
        one = ds[name]
        kind = "text" if one.dtype.kind in "UOST" else str(one.dtype)
        over = ", ".join(map(str, one.dims))
        rows.append(
            [f"`{name}`", over, kind, str(one.attrs.get("units", "")), one.attrs.get("long_name", "")]
        )
    return table(["name", "dimensions", "type", "units", "meaning"], rows)


def section(title: str, call: str, ds: Any) -> str:
    """One kind of dataset."""
    sizes = ", ".join(f"{name} ({size})" for name, size in ds.sizes.items())
    parts = [f"## {title}", f"`{call}` has the dimensions {sizes or 'none'}."]
    for heading, names in (("Coordinates", sorted(ds.coords)), ("Variables", sorted(ds.data_vars))):
        if names:
            parts += [f"**{heading}**", variables(ds, [str(name) for name in names])]
    rows = [[f"`{name}`", shown(name, value)] for name, value in ds.attrs.items()]
    if rows:
        parts += ["**Attributes**", table(["name", "here"], rows)]
    return "\n\n".join(parts)


def shown(name: str, value: Any) -> str:
    """The value of an attribute; of the JSON string of provenance its keys."""
    if name == "provenance":
        return "JSON: " + ", ".join(f"`{key}`" for key in json.loads(value))
    return f"`{value}`" if str(value) else ""


def page() -> str:
    """The whole schema."""
    from depprobe.vocabulary import SCHEMA_VERSION

    parts = [section(title, call, ds) for title, call, ds in results()]
    return "\n\n".join([HEAD.format(version=SCHEMA_VERSION), *parts]) + "\n"


def setup(app: Any) -> dict[str, Any]:
    """Write the page once the configuration is read."""
    from written import write

    app.connect("config-inited", lambda app, config: write(PAGE, page()))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
