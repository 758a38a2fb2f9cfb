"""``depprobe advise``: layers ranked by cost on this machine and by the gradient that arrives."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from depprobe.cli import output
from depprobe.cli.common import shared
from depprobe.cli.progress import progress

if TYPE_CHECKING:
    import xarray as xr


@click.command(short_help="which layer to take for a length, a width and a dependency")
@click.option("--n", type=int, required=True, help="Sequence length.")
@click.option("--d", default=512, show_default=True, help="Width.")
@click.option(
    "--dependency",
    default="global",
    show_default=True,
    metavar="LAG|local|global",
    help="How far back what matters lies: a lag, local (16) or global (n - 1).",
)
@click.option("--stream", is_flag=True, help="Tokens come one by one: rank by the cost of one more.")
@click.option(
    "--map",
    "map_",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Draw the layer to take over n and lag: .png, .pdf or .svg.",
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where measurements are kept (default: the user's cache folder).",
)
@shared("memory", "json", "quiet")
def advise(
    n: int,
    d: int,
    dependency: str,
    stream: bool,
    map_: Path | None,
    cache: Path | None,
    memory: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Rank the layers for sequences of length n, and say where the article's decision tree differs.

    The first call measures this machine, which takes minutes, and keeps what it measured.

    \b
    depprobe advise --n 2000 --d 256 --dependency 500
    depprobe advise --n 100000 --d 512 --dependency local --stream
    """
    from depprobe.errors import BadInput
    from depprobe.figures.saving import format_of

    lag = int(dependency) if dependency.lstrip("-").isdigit() else dependency
    if map_ is not None:
        format_of(map_)
        output.check_writable(map_)
    if isinstance(lag, str) and lag not in ("local", "global"):
        raise BadInput(f"--dependency must be local, global or a lag, not {dependency!r}")
    with progress(quiet) as report:
        from depprobe.advise import advise as rank
        from depprobe.advise import regions

        ds = rank(n, d, lag, stream=stream, memory=memory, folder=cache, progress=report)
        grid = None
        if map_ is not None:
            grid = regions(d, stream=stream, memory=memory, folder=cache, progress=report)
    if grid is not None and map_ is not None:
        from depprobe.figures import decision, save

        save(decision(grid), map_)
    if as_json:
        names = [*ds.data_vars]
        records = [
            {"layer": str(label), **{str(name): float(ds[name][i]) for name in names}}
            for i, label in enumerate(ds["layer"].values)
        ]
        document = {"attributes": ds.attrs, "layers": records, "map": None if map_ is None else str(map_)}
        output.echo(output.as_json(document))
        return
    output.echo(_table(ds))
    output.echo("\n".join(_notes(ds)))
    if map_ is not None:
        output.echo(f"map      {map_}")


def _table(ds: xr.Dataset) -> str:
    from rich import box
    from rich.table import Table

    reasons = json.loads(str(ds.attrs["reasons"]))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=str(ds.attrs["title"]), title_justify="left")
    time = "one more token" if ds.attrs["stream"] else "training step"
    size = "state" if ds.attrs["stream"] else "activations"
    for heading in ("", "layer", time, size, "layers", "gradient", "verdict"):
        table.add_column(heading, justify="left" if heading in ("layer", "verdict") else "right")
    for place, label in enumerate(ds["layer"].values, start=1):
        row = ds.sel(layer=label)
        logs = float(row["log_arrival"])
        arrives = output.power_of_ten(logs) + "*" * int(row["extrapolated"])
        needed = float(row["layers_needed"])
        table.add_row(
            str(place),
            str(label),
            _seconds(float(row["predicted_time"]), float(row["predicted_error"])),
            _bytes(float(row["predicted_bytes"])),
            f"{needed:.0f}" if math.isfinite(needed) else "-",
            arrives,
            reasons[str(label)],
        )
    return output.rendered(table, 110)


def _seconds(value: float, error: float) -> str:
    if not math.isfinite(value):
        return "-"
    scale, unit = next((s, u) for s, u in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")) if value >= s or u == "µs")
    return f"{value / scale:.3g} {unit} ± {100 * math.expm1(error):.0f} %"


def _bytes(value: float) -> str:
    if not math.isfinite(value):
        return "-"
    power = min(3, int(math.log(max(value, 1), 1024)))
    return f"{value / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB')[power]}"


def _notes(ds: xr.Dataset) -> list[str]:
    best = str(ds["layer"].values[0])
    usable = float(ds["group"][0]) == 0
    lines = [
        f"take     {best}: the fastest through which the gradient arrives from lag {ds.attrs['lag']}"
        if usable
        else f"take     none as it is; nearest is {best}",
        f"article  its decision tree says {ds.attrs['tree']}"
        + ("" if ds.attrs["agrees"] else ", which differs")
        + (f"; its rules of thumb say {ds.attrs['rule_of_thumb']}" if ds.attrs["rule_of_thumb"] else ""),
        "",
        "time and bytes: fitted to measurements of this machine (float32, batch 1); ± is the error of points "
        "left out",
        "gradient: norm at the lag over the largest in the row, untrained weights, as many layers as reach "
        "it; below 1.2e-7 it drowns in a float32 sum",
    ]
    if bool((ds["extrapolated"] > 0).any()):
        lines.append("* continued from sequences of up to 1024 positions")
    return lines
