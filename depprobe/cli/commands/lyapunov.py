"""``depprobe lyapunov``: how fast nearby trajectories diverge, in nats a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from depprobe.cli.common import Run
from depprobe.cli.grouped_help import Grouped
from depprobe.cli.options import saying, shared
from depprobe.vocabulary import DRIVES

if TYPE_CHECKING:
    import xarray as xr

    from depprobe.store.finished import Finished


@click.command(cls=Grouped, short_help="Lyapunov exponents of a recurrence, their convergence, a figure")
@shared("layer", "part", "n", "d")
@click.option(
    "--exponents",
    metavar="M|all",
    help="How many exponents, the largest first; 16 by default, or all of the smallest state.",
)
@click.option(
    "--drive",
    type=click.Choice(list(DRIVES)),
    default="input",
    help="Driven by the input, or autonomous from a random state.",
)
@click.option("--warmup", type=int, help="Steps before anything is counted (default: a fifth of n).")
@shared("input", "samples", "seeds", "seed", "dtype", "device", "memory")
@saying
def lyapunov(input_: str, **options: Any) -> None:
    """Measure the Lyapunov exponents of recurrent layers (rnn, gru, lstm).

    The state is all that the layer carries: (c, h) for an LSTM. n counts the warm-up. Prints a summary, and
    saves the dataset (netCDF) and a figure.

    \b
    depprobe lyapunov --layer lstm --d 64
    depprobe lyapunov --layer rnn:gain=2,bias=false --drive none --seeds 4 --exponents 8
    depprobe lyapunov --layer rnn --layer gru --d 16 --exponents all --input README.md
    """
    run = asked(input_, options)
    ds = run.there()
    ds = measured(run, run.finished) if ds is None else ds
    run.say(ds, run.keep(ds))


def asked(input_: str, options: Mapping[str, Any]) -> Run:
    """The run that the options ask for; raises ``BadInput`` for an input that would not be read."""
    from depprobe.errors import BadInput

    if options["drive"] == "none" and input_ != "noise":
        raise BadInput(f"--drive none reads no input; leave out --input {input_}")
    return Run.of("lyapunov", input_, options)


def measured(run: Run, kept: Finished | None = None) -> xr.Dataset:
    """The dataset of a run, whose finished cases are kept."""
    with run.measuring() as report:
        from depprobe.probes.lyapunov import lyapunov as measure

        given = run.options | {"finished": kept}
        return measure(run.targets, run.source, command=run.command, progress=report, **given)
