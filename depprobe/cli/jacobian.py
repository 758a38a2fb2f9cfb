"""``depprobe jacobian``: norms of dh_t/dx_k, a curve, distances, a figure."""

from __future__ import annotations

import hashlib
import re
import shlex
import time
from pathlib import Path
from typing import Any

import click

from depprobe.cli import output
from depprobe.cli.progress import progress
from depprobe.vocabulary import METHODS, NORMS, WRT


@click.command(short_help="norms of dh_t/dx_k, a curve, distances, a figure")
@click.option(
    "--layer",
    "layers",
    metavar="SPEC",
    multiple=True,
    required=True,
    help="A named layer, such as lstm or lstm:forget_bias=2; repeat to compare.",
)
@click.option("--n", default=1000, show_default=True, help="Sequence length.")
@click.option("--d", default=512, show_default=True, help="Width of the layer.")
@click.option(
    "--targets",
    default="last",
    show_default=True,
    metavar="last|all|every:M|LIST",
    help="Output positions t.",
)
@click.option(
    "--wrt",
    type=click.Choice(list(WRT)),
    default="x",
    show_default=True,
    help="Differentiate with respect to the input, or the earlier state.",
)
@click.option(
    "--norm",
    type=click.Choice(list(NORMS)),
    default="fro",
    show_default=True,
    help="Frobenius norm, or largest singular value.",
)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default="auto",
    show_default=True,
    help="Structured operator, autograd, or random probes.",
)
@click.option(
    "--tolerance",
    default=1e-6,
    show_default=True,
    help="Relative error that compression may cause; 0 for none.",
)
@click.option("--probes", default=32, show_default=True, help="Random probes for --method probes.")
@click.option(
    "--input",
    "input_",
    default="noise",
    show_default=True,
    metavar="noise|FILE",
    help="Input: noise, or a .txt, .npy or .csv file.",
)
@click.option("--samples", default=1, show_default=True, help="Number of inputs (same weights).")
@click.option("--seeds", default=1, show_default=True, help="Number of draws of the weights.")
@click.option("--seed", default=0, show_default=True, help="Fixes the weights, then the input.")
@click.option("--dtype", default="float64", show_default=True, help="float32 or float64.")
@click.option("--device", default="cpu", show_default=True, help="Where to compute: cpu, cuda, mps.")
@click.option("--threads", type=click.IntRange(1), help="Threads to compute with.")
@click.option("--memory", default="4GiB", show_default=True, help="Memory budget.")
@click.option(
    "-o",
    "--output",
    "output_",
    type=click.Path(path_type=Path),
    metavar="FILE.nc",
    help="Where to save the dataset (default: under runs/).",
)
@click.option(
    "--figure",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to save the figure: .png, .pdf or .svg (default: under runs/).",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of the table.")
@click.option("--table", type=click.Choice(list(output.TABLES)), help="Print the table in this form.")
@click.option("-q", "--quiet", is_flag=True, help="No messages or progress on stderr.")
@click.option("-v", "--verbose", is_flag=True, help="Say what runs and how long it took.")
def jacobian(
    layers: tuple[str, ...],
    input_: str,
    threads: int | None,
    output_: Path | None,
    figure: Path | None,
    as_json: bool,
    table: str | None,
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Measure how output position t of a layer moves when input position k moves.

    Prints a summary, and saves the dataset (netCDF) and a figure.

    \b
    depprobe jacobian --layer lstm --n 1000
    depprobe jacobian --layer lstm --layer gru --layer rnn --input README.md
    depprobe jacobian --layer lstm:forget_bias=2 --targets every:50 --samples 16
    """
    from depprobe.cli.drawing import draw
    from depprobe.errors import BadInput
    from depprobe.figures.saving import format_of

    if as_json and table:
        raise BadInput("give --json or --table, not both")
    stem = Path("runs") / _run_name(layers, input_, options)
    data_path = output_ or stem.with_name(stem.name + ".nc")
    figure_path = figure or stem.with_name(stem.name + ".png")
    format_of(figure_path)
    for path in (data_path, figure_path):
        output.check_writable(path)
    output.check_distinct(data_path, figure_path, *([] if input_ == "noise" else [Path(input_)]))

    from depprobe.inputs import read

    source = read(input_)

    import torch

    from depprobe import store
    from depprobe.curves import decay_curve, distances
    from depprobe.probes.jacobian import jacobian as measure
    from depprobe.resume import Finished

    threads_before = torch.get_num_threads()
    start = time.perf_counter()
    try:
        if threads:
            torch.set_num_threads(threads)
        with progress(quiet) as report:
            kept = Finished(data_path.with_name(data_path.name + ".partial"))
            ds = measure(
                list(layers),
                source,
                command=_command(layers, input_, options),
                progress=report,
                finished=kept,
                **options,
            )
    finally:
        torch.set_num_threads(threads_before)
    measured = time.perf_counter() - start
    store.save(ds, data_path)
    kept.clear()
    curve, found = decay_curve(ds), distances(ds)
    figures = draw([ds], [], figure_path)
    rows = output.summary(ds, found, curve)
    if as_json:
        document = {
            "attributes": ds.attrs,
            "layers": rows,
            "distances": found.attrs,
            "curve": {
                "lag": curve["lag"].values,
                "log_median": curve["log_median"].values,
                "log_rms": curve["log_rms"].values,
            },
            "dataset": str(data_path),
            "figures": [str(path) for path in figures],
        }
        output.echo(output.as_json(document))
    elif table:
        output.echo(output.TABLES[table](rows))
    else:
        output.echo(output.as_text(rows, output.title(ds)))
        output.echo("\n".join(["", *output.notes(ds, found)]))
        output.echo("\n".join([f"dataset  {data_path}", *(f"figure   {path}" for path in figures)]))
    if verbose and not quiet:
        click.echo(
            f"depprobe: measured in {measured:.2f} s with {threads or threads_before} threads", err=True
        )


def _command(layers: tuple[str, ...], input_: str, options: dict[str, Any]) -> str:
    """The command that gives this dataset, without options that do not bear on it."""
    words = ["depprobe", "jacobian"]
    for layer in layers:
        words += ["--layer", layer]
    defaults = {parameter.name: parameter.default for parameter in jacobian.params}
    if input_ != "noise":
        words += ["--input", Path(input_).name]
    for name, value in options.items():
        if name in ("n", "d", "seed") or value != defaults[name]:
            words += [f"--{name}", str(value)]
    return shlex.join(words)


def _run_name(layers: tuple[str, ...], input_: str, options: dict[str, Any]) -> str:
    """A file name that says what was run, and differs wherever an option differs."""
    command = _command(layers, input_, options)
    short = "-".join(re.sub(r"[^A-Za-z0-9.]+", "-", layer).strip("-") for layer in layers)[:60]
    mark = hashlib.sha256(command.encode()).hexdigest()[:8]
    return f"jacobian_{short}_n{options['n']}_d{options['d']}_{mark}"
