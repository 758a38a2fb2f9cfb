"""``depprobe runs``: the datasets of a folder, with what was asked, of what input, and when."""

from __future__ import annotations

import datetime
import shlex
from pathlib import Path
from typing import Any

import click

from depprobe.cli import output, tables
from depprobe.cli.grouped_help import Grouped
from depprobe.units import counted


@click.command(cls=Grouped, short_help="list stored datasets")
@click.argument("folder", default="runs", type=click.Path(path_type=Path), metavar="[FOLDER]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def runs(folder: Path, as_json: bool) -> None:
    """List the datasets of a folder (default: runs), the newest first.

    \b
    depprobe runs
    depprobe show runs
    """
    from depprobe.errors import BadInput

    sweeps = [plan.parent for plan in folder.glob("*/sweep.json")]
    files = sorted([*folder.glob("*.nc"), *sweeps], key=lambda file: -file.lstat().st_mtime)
    if not files:
        raise BadInput(f"{str(folder)!r} holds no dataset (*.nc); commands that measure keep theirs in runs/")
    rows = [_about_sweep(file) if file in sweeps else _about(file) for file in files]
    if as_json:
        output.echo(output.as_json({str(row["file"]): row for row in rows}))
        return
    heads = ["file", "question", "layer", "input", "date"]
    cells = [[output.shown(row[head]) for head in heads] for row in rows]
    output.echo(tables.as_text(output.Summary(f"Datasets in {folder}", heads, cells, [], upright=True)))


def _bare(file: Path) -> dict[str, Any]:
    date = datetime.datetime.fromtimestamp(file.lstat().st_mtime).isoformat(" ", "minutes")
    return {"file": file.name, "question": "-", "layer": "-", "input": "-", "date": date}


def _about_sweep(folder: Path) -> dict[str, Any]:
    from depprobe.errors import DepprobeError
    from depprobe.store.sweeps.folder import SweepFolder

    row = _bare(folder) | {"file": f"{folder.name}/"}
    try:
        plan = SweepFolder(folder).plan()
    except DepprobeError:
        return row | {"question": "not readable"}
    asked = f"sweep of {plan.probe}, {counted(len(plan.cells), 'cell')}"
    layers = dict.fromkeys(str(cell.at["layer"]) for cell in plan.cells if "layer" in cell.at)
    return row | {"question": asked, "layer": ", ".join(layers) or "-"}


def _about(file: Path) -> dict[str, Any]:
    from depprobe import store
    from depprobe.errors import DepprobeError

    row = _bare(file)
    try:
        ds = store.load(file)
    except DepprobeError:
        # a damaged file hides no other
        return row | {"question": "not readable"}
    words = shlex.split(output.command_of(ds))
    row |= {"question": words[1] if words[:1] == ["depprobe"] else words[0], "command": shlex.join(words)}
    given = words[words.index("--input") + 1] if "--input" in words[:-1] else "noise"
    if words[0] != "depprobe" or "input_sha256" not in output.attributes_of(ds).get("provenance", {}):
        # what a call in Python was given is not known by name, and weights alone read nothing
        given = "-"
    return row | {"layer": str(ds.attrs.get("layer", "-")), "input": given}
