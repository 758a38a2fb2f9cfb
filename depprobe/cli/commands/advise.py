"""``depprobe advise``: layers ranked by cost on this machine and by the gradient that arrives."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from depprobe.cli import completing, output, tables
from depprobe.cli.grouped_help import Grouped
from depprobe.cli.options import check_forms, shared
from depprobe.cli.progress import progress


@click.command(cls=Grouped, short_help="which layer to take for a length, a width and a dependency")
@click.option("--n", type=int, required=True, help="Sequence length.")
@click.option("--d", default=512, help="Width.")
@click.option(
    "--dependency",
    default="global",
    metavar="LAG|local|global",
    help="How far back what matters lies: a lag, local (16) or global (n - 1).",
)
@click.option("--stream", is_flag=True, help="Tokens come one by one: rank by the cost of one more.")
@click.option(
    "--layer",
    "layers",
    metavar="SPEC",
    multiple=True,
    shell_complete=completing.layers,
    help="A layer to rank, such as lstm:forget_bias=4; repeat to compare (default: all the named ones).",
)
@click.option(
    "--map",
    "map_",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Draw the layer to take over n and lag: .png, .pdf or .svg.",
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where measurements are kept (default: depprobe in the user's cache folder).",
)
@shared("memory", "json", "table", "rows", "labels", "quiet")
def advise(
    n: int,
    d: int,
    dependency: str,
    stream: bool,
    layers: tuple[str, ...],
    map_: Path | None,
    cache: Path | None,
    memory: str,
    as_json: bool,
    table: str | None,
    rows: str | None,
    labels: str | None,
    quiet: bool,
) -> None:
    """Rank the layers for sequences of length n, and say where the article's decision tree differs.

    The first call measures this machine, which takes minutes, and keeps what it measured. An interrupted one
    goes on where it was.

    \b
    depprobe advise --n 2000 --d 256 --dependency 500
    depprobe advise --n 100000 --dependency local --stream
    depprobe advise --n 1000 --map map.pdf
    """
    check_forms(as_json, table, rows)
    named = _named(layers, labels)
    if map_ is not None:
        from depprobe.figures.drawing.saving import format_of

        format_of(map_)
        output.check_writable(map_)
    lag: int | str = dependency
    with contextlib.suppress(ValueError):
        lag = int(dependency)
    with progress(quiet) as report:
        from depprobe.advice.decision_map import decision_map
        from depprobe.advice.ranking import advise as rank
        from depprobe.ledger.choosing.article_rules import beside_map, beside_ranking

        ds = rank(n, d, lag, stream=stream, memory=memory, specs=layers, folder=cache, progress=report)
        ds = beside_ranking(ds)
        grid = None
        if map_ is not None:
            grid = decision_map(d, stream=stream, memory=memory, specs=layers, folder=cache, progress=report)
    if grid is not None and map_ is not None:
        from depprobe.figures import decision, save

        shown = [named.get(name, name) for name in sorted(map(str, grid["layer"].values))]
        save(decision(beside_map(grid), labels=shown if named else None).figure, map_)
    from depprobe.cli.summaries.ranking import alike, records, summary

    if as_json:
        document = {
            "attributes": output.attributes_of(ds) | {"indistinguishable": alike(ds)},
            "layers": records(ds),
            "map": None if map_ is None else str(map_),
        }
        output.echo(output.as_json(document))
        return
    said = tables.renamed(summary(ds), named)
    said = tables.chosen(said, rows)
    output.echo(tables.TABLES[table or "text"](said))
    if table in (None, "text"):
        output.echo("\n".join(["", *said.notes]))
        if map_ is not None:
            output.echo(f"map      {map_}")


def _named(layers: tuple[str, ...], labels: str | None) -> dict[str, str]:
    """The names of layers, given in the order of ``--layer``, by spec string."""
    from depprobe.errors import BadInput, wrong_number
    from depprobe.registry import Spec

    if labels is None:
        return {}
    names = output.labels_in(labels)
    if len(names) != len(layers):
        if layers:
            raise wrong_number(len(names), "label", len(layers), "layer")
        raise BadInput("labels were given for no --layer, whose order they follow")
    return dict(zip((str(Spec.parse(one)) for one in layers), names, strict=True))
