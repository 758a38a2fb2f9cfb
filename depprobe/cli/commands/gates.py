"""``depprobe gates``: the product of forget gates beside the true Jacobian of the gated state."""

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


@click.command(cls=Grouped, short_help="forget gates: their product beside the true dc_t/dc_k")
@shared("layer", "part", "n", "d")
@click.option("--target", default="last", metavar="last|T", help="Output position t.")
@click.option("--depth", default=0, help="Stacked layer to measure; 0 is the bottom one.")
@click.option(
    "--hold-h", is_flag=True, help="Keep h_k as it is when c_k moves (default: h_k = o_k tanh(c_k) follows)."
)
@click.option("--tolerance", default=1e-6, help="Relative error that compression may cause; 0 for none.")
@shared("input", "samples", "seeds", "seed", "dtype", "device", "memory")
@saying
def gates(input_: str, **options: Any) -> None:
    """Measure whether the gates of an LSTM or GRU carry the gradient.

    Norms of the true dc_t/dc_k and dh_t/dc_k (GRU: dh_t/dh_k) beside the product of forget (update) gates
    at every lag, the distribution of gates, and how long units hold.

    \b
    depprobe gates --layer lstm --n 1000
    depprobe gates --layer lstm --layer lstm:forget_bias=2 --layer lstm:forget_bias=5
    depprobe gates --layer gru:gain=2 --input README.md
    depprobe gates --model mine.py:make --part encoder.rnn --input data.csv
    """
    run = asked(input_, options)
    ds = run.there()
    ds = measured(run, run.finished) if ds is None else ds
    run.say(ds, run.keep(ds))


def asked(input_: str, options: Mapping[str, Any]) -> Run:
    """The run that the options ask for."""
    return Run.of("gates", input_, options)


def measured(run: Run, kept: Finished | None = None) -> xr.Dataset:
    """The dataset of a run, whose finished cases are kept."""
    with run.measuring() as report:
        from depprobe.probes.gates import gates as measure

        given = run.options | {"finished": kept}
        return measure(run.targets, run.source, command=run.command, progress=report, **given)
