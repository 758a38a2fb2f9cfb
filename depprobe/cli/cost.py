"""``depprobe cost``: FLOPs, bytes, seconds, sequential steps, one more token of a stream."""

from __future__ import annotations

from typing import Any

import click

from depprobe.cli.common import Run, shared

_PHASES = {"both": ("forward", "forward+backward")}


@click.command(short_help="FLOPs, bytes, seconds, sequential steps; a figure")
@click.option(
    "--layer",
    "layers",
    metavar="SPEC",
    multiple=True,
    help="A named layer, such as lstm or attention:fused=false; repeat to compare (default: the article's).",
)
@click.option("--n", default="256,512,1024,2048", show_default=True, metavar="LIST", help="Sequence lengths.")
@click.option("--d", default="512", show_default=True, metavar="LIST", help="Widths.")
@click.option(
    "--phase", default="both", show_default=True, metavar="forward|forward+backward|both", help="Passes."
)
@click.option(
    "--threads", "counts", metavar="LIST", help="Threads to time with (default: 1 and all processors)."
)
@click.option("--seconds", default=0.2, show_default=True, help="Time each pass for so long, at least.")
@shared("seed")
@click.option("--dtype", default="float32", show_default=True, help="float32 or float64.")
@shared("memory", "output", "figure", "json", "table", "quiet", "verbose")
def cost(layers: tuple[str, ...], **options: Any) -> None:
    """Measure what layers cost: FLOPs, memory and time at several lengths, and one more token of a stream.

    Each layer at each length runs in a process of its own. Prints a summary, and saves the dataset (netCDF)
    and a figure. An interrupted run goes on where it was.

    \b
    depprobe cost
    depprobe cost --layer attention --layer lstm --n 128,512,2048 --d 512
    depprobe cost --layer attention:causal=true --n 1000 --threads 1
    """
    from depprobe.resume import FinishedPoints

    if not layers:
        from depprobe.probes.cost import ARTICLE as layers  # noqa: N811
    run = Run.of("cost", layers, "noise", {**options, "threads": None})
    given = dict(run.options)
    sizes: dict[str, Any] = {name: _whole(name, given.pop(name)) for name in ("n", "d")}
    counts, phase = given.pop("counts"), given.pop("phase")
    with run.measuring() as report:
        from depprobe.probes.cost import cost as measure

        kept = FinishedPoints(run.data.with_name(run.data.name + ".partial"))
        ds = measure(
            list(layers),
            **sizes,
            phases=_PHASES.get(phase, (phase,)),
            threads=None if counts is None else _whole("threads", counts),
            command=run.command,
            progress=report,
            finished=kept,
            **given,
        )
    figures = run.keep(ds)
    kept.clear()
    run.say(ds, figures)


def _whole(name: str, text: str) -> list[int]:
    """The integers of a list such as 128,256."""
    from depprobe.errors import BadInput

    try:
        return [int(piece) for piece in text.split(",")]
    except ValueError:
        raise BadInput(f"--{name} must be integers such as 128,256, not {text!r}") from None
