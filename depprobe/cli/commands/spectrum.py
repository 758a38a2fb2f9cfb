"""``depprobe spectrum``: eigenvalues and singular values of what a recurrence multiplies by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from depprobe.cli.common import Run
from depprobe.cli.grouped_help import Grouped
from depprobe.cli.options import saying, shared

if TYPE_CHECKING:
    import xarray as xr

    from depprobe.store.finished import Finished


@click.command(
    cls=Grouped, short_help="eigenvalues, singular values, non-normality of recurrent weights, a figure"
)
@shared("layer", "part", "d")
@click.option(
    "--weight",
    multiple=True,
    metavar="NAME",
    help="Name of a square parameter to take instead of the recurrent weights; repeat for several.",
)
@click.option(
    "--steps",
    metavar="last|all|every:M|LIST",
    help="Take the step Jacobians at these positions of a trajectory instead of weights.",
)
@click.option("--n", type=int, show_default="1000", help="Length of the trajectory for --steps.")
@click.option(
    "--modes",
    type=int,
    show_default="all; 16 of matrices wider than 1024",
    help="How many leading modes to give; of a narrower matrix all there are.",
)
@click.option("--powers", default=64, help="Highest power searched for growth.")
@click.option(
    "--grid",
    type=int,
    show_default="33",
    help="Points a side of the pseudospectrum, of matrices up to 1024 wide; 0 for none.",
)
@shared("input", "seeds", "seed", "dtype", "device", "memory")
@saying
def spectrum(input_: str, **options: Any) -> None:
    """Take apart the recurrent weights of layers, gate by gate, or their steps along a trajectory.

    Prints a summary, and saves the dataset (netCDF) and a figure of the complex plane.

    \b
    depprobe spectrum --layer rnn
    depprobe spectrum --layer lstm --d 64 --steps 9,99 --n 100
    depprobe spectrum --model mine.py:make --steps last --part encoder.rnn --input data.csv
    depprobe spectrum --layer attention --d 64 --weight weights.out_proj.weight
    """
    run = asked(input_, options)
    ds = run.there()
    ds = measured(run, run.finished) if ds is None else ds
    run.say(ds, run.keep(ds))


def asked(input_: str, options: Mapping[str, Any]) -> Run:
    """The run that the options ask for; raises ``BadInput`` for an input that would not be read."""
    from depprobe.errors import BadInput

    if options["steps"] is None and input_ != "noise":
        raise BadInput("weights need no input: leave out --input, or give --steps")
    return Run.of("spectrum", input_, options)


def measured(run: Run, kept: Finished | None = None) -> xr.Dataset:
    """The dataset of a run, whose finished cases are kept."""
    with run.measuring() as report:
        from depprobe.probes.spectrum import spectrum as measure

        given = {**run.options, "weight": list(run.options["weight"]) or None, "finished": kept}
        return measure(run.targets, run.source, command=run.command, progress=report, **given)
