"""``depprobe jacobian``: norms of dh_t/dx_k, a curve, distances, a figure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from depprobe.cli import output
from depprobe.cli.common import Run
from depprobe.cli.grouped_help import Grouped
from depprobe.cli.options import saying, shared, weighing
from depprobe.vocabulary import METHODS, NORMS

if TYPE_CHECKING:
    import xarray as xr

    from depprobe.store.finished import Finished


@click.command(cls=Grouped, short_help="norms of dh_t/dx_k, a curve, distances, a figure")
@shared("layer", "n", "d")
@click.option(
    "--targets",
    show_default="last; random:64 with --method probes",
    metavar="last|all|every:M|random:K|LIST",
    help="Output positions t; random:K draws one from each of K equal runs.",
)
@click.option(
    "--of",
    default="output",
    metavar="output|logits|loss|NAME",
    help="Numerator: what the model puts out, or a submodule's output; with stars (h.*) along depth.",
)
@click.option(
    "--wrt",
    default="x",
    metavar="x|h|c|NAME",
    help="Denominator: the input, the earlier state of a recurrence, or a submodule's output.",
)
@click.option(
    "--layout",
    metavar="'b n d'|'n b d'|'b d n'|'n d'",
    help="Axes that a model's forward takes and gives: batch, time, features.",
)
@click.option(
    "--position",
    metavar="same|end|forecast|LIST",
    help="Where outputs sit among inputs, if the lengths do not tell.",
)
@click.option(
    "--norm",
    type=click.Choice(list(NORMS)),
    default="fro",
    help="Frobenius norm, largest singular value, or Fisher norm of logits.",
)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default="auto",
    help="Structured operator, autograd, or random probes.",
)
@click.option(
    "--tolerance",
    type=float,
    show_default="1e-06",
    help="Relative error that compression may cause; 0 for none.",
)
@click.option(
    "--probes",
    metavar="M|E%",
    callback=lambda context, option, value: int(value) if value and value.isdecimal() else value,
    show_default="1; 32 where --targets is given",
    help="Orthonormal random probes a target for --method probes, or the relative standard error of squared "
    "norms to reach, such as 10%; exact once there are as many as the layer is wide.",
)
@click.option(
    "--deflate",
    metavar="K",
    default=0,
    help="How many of the probes of a target are directions in which blocks are large, taken exactly.",
)
@click.option("--theory", is_flag=True, help="Draw what theory predicts, and print it beside the measured.")
@shared("input", "samples", "seeds", "seed", "dtype", "device", "memory")
@weighing
@saying
def jacobian(input_: str, theory: bool, **options: Any) -> None:
    """Measure how output position t of a layer moves when input position k moves.

    Prints a summary, and saves the dataset (netCDF) and a figure.

    \b
    depprobe jacobian --layer lstm --n 1000
    depprobe jacobian --layer lstm --layer gru --layer rnn --input README.md
    depprobe jacobian --layer lstm:forget_bias=2 --targets every:50 --samples 16
    depprobe jacobian --model mine.py:make --weights net.safetensors --input data.csv
    """
    from depprobe.curves import decay_curve, distances
    from depprobe.errors import BadInput

    run = asked(input_, options)
    if theory and not isinstance(run.targets, list):
        raise BadInput("--theory is known of named layers alone; leave it out, or --model and labels")
    ds = run.there()
    ds = measured(run, run.finished) if ds is None else ds
    predicted = None
    if theory:
        from depprobe.probes.theory import theory as predict

        sizes = {name: run.options[name] for name in ("n", "d", "seed")}
        predicted = predict(run.targets, run.source, **sizes)
    paths = run.keep(ds, predicted)
    extra: dict[str, Any] = {}
    beside: list[dict[str, Any]] = []
    # fits take a second of a long curve, and the summary makes them anyway
    if run.as_json or theory:
        curve, found = decay_curve(ds), distances(ds, **run.weighing)
        by_lag = {name: curve[name].values for name in ("lag", "log_median", "log_rms")}
        extra = {"distances": output.attributes_of(found), "curve": by_lag}
        if predicted is not None:
            beside = extra["theory"] = _beside(found, curve, predicted)
    run.say(ds, paths, extra)
    run.note([_said(row) for row in beside])


def asked(input_: str, options: Mapping[str, Any]) -> Run:
    """The run that the options ask for."""
    return Run.of("jacobian", input_, options)


def measured(run: Run, kept: Finished | None = None) -> xr.Dataset:
    """The dataset of a run, whose finished cases are kept."""
    with run.measuring() as report:
        from depprobe.probes.jacobian import jacobian as measure

        given = run.options | {"finished": kept, "position": _position(run.options["position"])}
        return measure(run.targets, run.source, command=run.command, progress=report, **given)


def _position(text: str | None) -> Any:
    """The word, or the numbers of a list such as 3,7,11."""
    if text is None or not re.fullmatch(r"[\d.,\s-]+", text):
        return text
    return [float(part) for part in text.split(",")]


def _beside(found: xr.Dataset, curve: xr.Dataset, predicted: xr.Dataset) -> list[dict[str, Any]]:
    """Predicted beside measured, one row a layer and theory: decay rates, or widths of bumps."""
    rows = []
    for layer in predicted["layer"].values:
        pick = {"layer": layer} if "layer" in found.dims else {}
        for kind in predicted["theory"].values:
            here = predicted.sel(layer=layer, theory=kind)
            for name, units in (("rate", "ln/step"), ("width", "positions")):
                value = float(here[f"predicted_{name}"])
                if value != value:
                    continue
                measured = found["decay_rate"].sel(pick) if name == "rate" else _width(curve.sel(pick))
                row: dict[str, Any] = {"layer": str(layer), "theory": str(kind), "quantity": name}
                rows.append(row | {"units": units, "predicted": value, "measured": float(measured)})
    return rows


def _width(curve: xr.Dataset) -> float:
    """Standard deviation of the lag, each lag weighed by the square of its norm."""
    import numpy as np

    log_norm, lag = curve["log_rms"].values, curve["lag"].values
    weight = np.nan_to_num(np.exp(2 * (log_norm - np.nanmax(log_norm))))
    mean = np.average(lag, weights=weight)
    return float(np.sqrt(np.average((lag - mean) ** 2, weights=weight)))


def _said(row: dict[str, Any]) -> str:
    theory = row["theory"] + (" width" if row["quantity"] == "width" else "")
    values = f"{row['predicted']:.4f}, measured {row['measured']:.4f} {row['units']}"
    return f"theory   {row['layer']}: {theory} {values}"
