"""``depprobe cost``: FLOPs, bytes, seconds, sequential steps, per-token latency; the efficiency table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from depprobe.cli.common import Run
from depprobe.cli.grouped_help import Grouped
from depprobe.cli.options import DRAWING, shared
from depprobe.cli.tables import TABLES

if TYPE_CHECKING:
    import xarray as xr

    from depprobe.store.finished import Finished

#: lengths at which layers are compared, and those of the efficiency table
_LENGTHS = "256,512,1024"
_PASSES = {"both": ("forward", "forward+backward")}


@click.command(cls=Grouped, short_help="FLOPs, bytes, seconds, sequential steps; a figure")
@shared("layer")
@click.option(
    "--n", metavar="LIST", help=f"Sequence lengths (default: {_LENGTHS}; of the efficiency table 1000,5000)."
)
@click.option("--d", default="512", metavar="LIST", help="Widths.")
@click.option("--phase", default="both", metavar="forward|forward+backward|both", help="Passes.")
@click.option(
    "--threads", "counts", metavar="LIST", help="Threads to time with (default: 1 and all processors)."
)
@click.option("--seconds", default=0.2, help="Time each pass for so long, at least.")
@shared("input", "seed")
@click.option("--dtype", default="float32", help="float32 or float64.")
@shared("memory", "output", "figure", *DRAWING, "json")
@click.option(
    "--table",
    type=click.Choice(list(TABLES)),
    help="The efficiency table in this form: time, memory, path, parallelism beside the article's.",
)
@shared("rows", "again", "quiet", "verbose")
def cost(input_: str, **options: Any) -> None:
    """Measure what layers cost: FLOPs, memory and time at several lengths, and per-token latency.

    Without --layer and --model, eleven kinds of layer. Each layer at each length runs in a process of its
    own; a model reads the first n positions of --input in this one. Prints a summary, and saves the dataset
    (netCDF) and figures. An interrupted run goes on where it was.

    \b
    depprobe cost
    depprobe cost --layer attention --layer lstm --n 128,512,2048 --d 512
    depprobe cost --model net.py:make --layer lstm --d 64 --input data.csv --n 128,256
    depprobe cost --table latex
    """
    table = options["table"]
    run = asked(input_, options)
    ds = run.there()
    ds = measured(run, run.finished) if ds is None else ds
    figures = run.keep(ds, kind="efficiency" if table else "auto")
    if table:
        from depprobe.cli.summaries.efficiency import summary

        run.say(ds, figures, summary=summary(ds))
    else:
        run.say(ds, figures)


def asked(input_: str, options: Mapping[str, Any]) -> Run:
    """The run that the options ask for, with the layers and lengths that go without saying."""
    from depprobe.cli.named_models import WORDS, named
    from depprobe.errors import BadInput

    context = click.get_current_context()
    table, n = options["table"], options["n"]
    given = named(context.meta[WORDS])
    models = any(one.is_model for one in given)
    if input_ != "noise" and not models:
        raise BadInput(f"named layers are measured at noise: leave out --input {input_}, or give a --model")
    if n is None:
        n = ",".join(map(str, _article_lengths())) if table else _LENGTHS
    if table and len(_whole("d", options["d"])) > 1:
        raise BadInput(f"the efficiency table is for one --d, not for {options['d']}")
    if table and models:
        raise BadInput("the efficiency table is of named layers: leave out --table, or --model")
    layers = None if given else _default_layers(table is not None)
    return Run.of("cost", input_, {**options, "n": n, "threads": None}, layers)


def measured(run: Run, kept: Finished | None = None) -> xr.Dataset:
    """The dataset of a run, whose finished points are kept."""
    given = dict(run.options)
    sizes: dict[str, Any] = {name: given.pop(name) for name in ("n", "d")}
    sizes = {name: None if text is None else _whole(name, text) for name, text in sizes.items()}
    counts, phase = given.pop("counts"), given.pop("phase")
    with run.measuring() as report:
        from depprobe.probes.cost import cost as measure

        return measure(
            run.targets,
            run.source,
            **sizes,
            phases=_passes(phase),
            threads=None if counts is None else _whole("threads", counts),
            command=run.command,
            progress=report,
            finished=kept,
            **given,
        )


def _default_layers(table: bool) -> tuple[str, ...]:
    """The layers that are measured unless told otherwise: eleven kinds, or those of the article's table."""
    if table:
        from depprobe.ledger.costs.efficiency_table import ARTICLE

        return tuple(ARTICLE)
    from depprobe.probes import cost as probe

    return probe.COMPARED


def _article_lengths() -> Sequence[int]:
    from depprobe.ledger.costs.efficiency_table import LENGTHS

    return LENGTHS


def _passes(phase: str) -> Sequence[str]:
    from depprobe.errors import unknown

    known = {name: (name,) for name in _PASSES["both"]} | _PASSES
    if phase not in known:
        raise unknown("phase", phase, known)
    return known[phase]


def _whole(name: str, text: str) -> list[int]:
    """The integers of a list such as 128,256."""
    from depprobe.errors import BadInput

    try:
        return [int(piece) for piece in text.split(",")]
    except ValueError:
        raise BadInput(f"--{name} must be integers such as 128,256, not {text!r}") from None
