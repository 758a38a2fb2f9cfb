"""Options that mean the same in every command that has them.

A command is decorated with ``@shared("layer", "n", ...)``, its own options, and ``@saying``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from depprobe.cli import completing
from depprobe.cli.output import names_in
from depprobe.cli.tables import TABLES
from depprobe.errors import BadInput
from depprobe.vocabulary import NORMALISED, POOLINGS, RELATIVE_TO

#: more threads than any machine has end the process, or overflow
THREADS = click.IntRange(1, 4096)
#: options that a model has values of its own for
OF_MODELS = ("n", "d", "samples", "seeds", "dtype", "device")


def measured(function: Any) -> Any:
    """What is measured. Its values are read off the words, since their order counts: ``named_models``."""
    for flag, metavar, complete, said in (
        (
            *("--weights", "FILE", completing.files),
            "Weights of the --model before: .safetensors, .pt, .ckpt, .npz, an .index.json of several; or "
            "LABEL=FILE.",
        ),
        (
            *("--model", "MODEL", completing.models),
            "FILE.py:FACTORY, package.module:FACTORY, hf:FOLDER, trained:NAME; may repeat.",
        ),
        (
            *("--layer", "SPEC", completing.layers),
            "A named layer, such as lstm or lstm:forget_bias=2; repeat to compare.",
        ),
    ):
        how: dict[str, Any] = {"multiple": True, "expose_value": False, "help": said}
        function = click.option(flag, metavar=metavar, shell_complete=complete, **how)(function)
    return function


#: options that mean the same in every command that has them
OPTIONS: dict[str, Callable[[Any], Any]] = {
    "layer": measured,
    "n": click.option("--n", default=1000, help="Sequence length."),
    "d": click.option("--d", default=512, help="Width of the layer."),
    "part": click.option(
        "--part", metavar="NAME", help="Recurrence in a model that holds several, by its name there."
    ),
    "input": click.option(
        "--input",
        "input_",
        default="noise",
        metavar="noise|FILE",
        shell_complete=completing.files,
        help="Input: noise, or a .txt, .npy, .csv, .tsv or .wav file.",
    ),
    "columns": click.option(
        "--columns",
        metavar="A,B,...",
        help="Columns of a table, by name or position from 0 (default: all but times and row numbers).",
    ),
    "delimiter": click.option(
        "--delimiter",
        metavar="CHARACTER",
        help="Between the columns of a table: a character, tab, or space (default: , or a .tsv's tab).",
    ),
    "decimal": click.option(
        "--decimal", metavar="CHARACTER", help="Before the fraction in a table's numbers (default: .)."
    ),
    "standardise": click.option(
        "--standardise",
        is_flag=True,
        help="Bring the columns of a table or array to mean 0, standard deviation 1.",
    ),
    "samples": click.option("--samples", default=1, help="Number of inputs (same weights)."),
    "seeds": click.option("--seeds", default=1, help="Number of draws of the weights."),
    "seed": click.option("--seed", default=0, help="Fixes the weights, then the input."),
    "dtype": click.option("--dtype", default="float64", help="float32 or float64."),
    "device": click.option("--device", default="cpu", help="Where to compute: cpu, cuda, mps."),
    "threads": click.option("--threads", type=THREADS, help="Threads to compute with."),
    "memory": click.option("--memory", default="4GiB", help="Memory budget."),
    "power": click.option(
        "--power", type=click.IntRange(1, 2), help="Mean and range weigh norms to this power (default: 2)."
    ),
    "skip_lags": click.option(
        "--skip-lags", type=click.IntRange(0), help="Leave lags below this out of distances; 1: no lag 0."
    ),
    "skip_first": click.option("--skip-first", type=click.IntRange(0), help="Leave out the first sources."),
    "pooling": click.option(
        "--pooling", type=click.Choice(POOLINGS), help="Pool norms at one lag so (default: rms)."
    ),
    "normalise": click.option(
        "--normalise", type=click.Choice(NORMALISED), help="Divide norms by the block at lag 0, or not."
    ),
    "threshold": click.option(
        "--threshold",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        metavar="FRACTION",
        help="Print the lag from which norms stay below this fraction (default: 1e-06).",
    ),
    "relative_to": click.option(
        "--relative-to",
        type=click.Choice(RELATIVE_TO),
        help="Threshold of the largest norm by lag, or of that at lag 0 (default: peak).",
    ),
    "output": click.option(
        "-o",
        "--output",
        "output_",
        type=click.Path(path_type=Path),
        metavar="FILE.nc",
        help="Where to save the dataset (default: under runs/).",
    ),
    "figure": click.option(
        "--figure",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Where to save the figure: .png, .pdf or .svg (default: under runs/).",
    ),
    "venue": click.option(
        "--venue", metavar="NAME", help="Draw in the sizes of a venue: neurips, icml, iclr, jmlr."
    ),
    "width": click.option("--width", type=float, metavar="INCHES", help="Width of figures."),
    "title": click.option("--title", help="Title of figures; '' for none."),
    "labels": click.option(
        "--labels",
        metavar="A,B,...",
        help="Names in figure and table, one a layer (of spectra, a matrix), in their order.",
    ),
    "legend": click.option("--legend/--no-legend", default=True, help="Draw a legend, or none."),
    "panels": click.option(
        "--panels", metavar="A,B,...", help="A panel for each dataset, under these titles, in their order."
    ),
    "json": click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON document instead of the table."
    ),
    "table": click.option("--table", type=click.Choice(list(TABLES)), help="Print the table in this form."),
    "rows": click.option("--rows", metavar="A,B,...", help="Rows of the table, by how their headings begin."),
    "again": click.option("--again", is_flag=True, help="Measure anew, although the result is there."),
    "quiet": click.option("-q", "--quiet", is_flag=True, help="No messages or progress on stderr."),
    "verbose": click.option("-v", "--verbose", is_flag=True, help="Say what runs and how long it took."),
}


#: how a table is read; they come with ``input``
TABLE = ("columns", "delimiter", "decimal", "standardise")


def shared(*names: str) -> Callable[[Any], Any]:
    """Decorator that gives a command the named options, and with ``input`` those of tables."""
    if "input" in names:
        at = names.index("input") + 1
        names = (*names[:at], *TABLE, *names[at:])

    def decorate(function: Any) -> Any:
        for name in reversed(names):
            function = OPTIONS[name](function)
        return function

    return decorate


#: how distances are taken; a dataset is the same whatever they are
DISTANCES = ("power", "skip_lags", "skip_first", "pooling", "normalise", "threshold", "relative_to")
weighing = shared(*DISTANCES)


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``DISTANCES`` that were given."""
    return {name: options[name] for name in DISTANCES if options.get(name) is not None}


#: how a figure looks
DRAWING = ("venue", "width", "title", "labels", "legend")
drawing = shared(*DRAWING)


#: options of how a result is computed and said, which do not bear on what it is
saying = shared("threads", "output", "figure", *DRAWING, "json", "table", "rows", "again", "quiet", "verbose")
SAYING = (
    "threads",
    "output_",
    "figure",
    *DRAWING,
    "as_json",
    "table",
    "rows",
    "again",
    "quiet",
    "verbose",
    *DISTANCES,
)


def check_forms(as_json: bool, table: str | None, rows: str | None) -> None:
    """Refuse forms that do not go together; raises ``BadInput``."""
    if as_json and table:
        raise BadInput("give --json or --table, not both")
    if rows is not None and not all(names_in(rows) or [""]):
        raise BadInput(f"--rows {rows!r} names none or an empty one; leave it out to show all")
    if rows and (as_json or table == "csv"):
        raise BadInput(f"--{'json' if as_json else 'table csv'} holds every number; leave out --rows")
