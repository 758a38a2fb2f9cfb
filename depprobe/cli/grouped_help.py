"""The class of the commands: an option that holds one value is given once, and help comes in groups.

These are what is measured, what it reads, how it is computed, what comes out, and then examples. A
command's docstring holds its examples as the paragraph after a line with ``\\b`` alone.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import NoReturn

import click

#: heading -> names of parameters, in the order in which they are listed; others stand under the last one
GROUPS: dict[str, tuple[str, ...]] = {
    "Model": (
        *("layer", "layers", "model", "weights", "d", "seeds", "of", "wrt", "layout", "position"),
        *("part", "depth", "weight", "hold_h", "dtype"),
    ),
    "Input": (
        *("n", "input_", "columns", "delimiter", "decimal", "standardise", "samples", "seed", "steps"),
        *("drive", "lag", "dependency", "stream", "archive"),
    ),
    "Output": (
        *("output_", "folder", "cache", "figure", "kind", "panels", "theory", "venue", "width", "title"),
        *("labels", "legend", "only", "rows", "table", "as_json", "again", "fresh", "quiet", "verbose"),
        *("interactive", "power", "skip_lags", "skip_first", "pooling", "normalise", "threshold"),
        *("relative_to", "map_"),
    ),
    "Computation": (),
}


class Grouped(click.Command):
    """A command whose options stand in groups, and whose examples have a heading of their own."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments; an option that holds one value is refused where two are given."""
        _, left, given = self.make_parser(ctx).parse_args(args=list(args))
        if left and not any(isinstance(param, click.Argument) for param in self.params):
            self._refuse(left[0], ctx)
        for param in given:
            if isinstance(param, click.Option) and not param.multiple and given.count(param) > 1:
                # a flag says the same twice, unless it is one of a pair
                if param.is_flag and not param.secondary_opts:
                    continue
                raise click.UsageError(f"{param.opts[-1]} is given twice; leave out all but one", ctx)
        return super().parse_args(ctx, args)

    def _refuse(self, word: str, ctx: click.Context) -> NoReturn:
        """Refuse a word that belongs to no option, with the option that takes it where there is one."""
        from depprobe.registry import layers

        kinds = {
            "--layer": word.partition("=")[2].partition(":")[0] in layers or word.partition(":")[0] in layers,
            "--model": ".py:" in word or word.startswith(("hf:", "trained:")),
            "--input": Path(word).suffix.lower() in {".csv", ".tsv", ".npy", ".wav", ".txt"},
        }
        known = {name for param in self.params for name in param.opts}
        option = next((name for name, fits in kinds.items() if fits and name in known), None)
        way = f"; give it as {option} {word}" if option else ""
        if Path(word).suffix.lower() == ".nc":
            way = f"; a stored dataset is read by depprobe show {word}"
        raise click.UsageError(f"{word!r} belongs to no option{way}", ctx)

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The docstring up to its examples."""
        about, _, _ = inspect.cleandoc(self.help or "").partition("\b\n")
        with formatter.indentation():
            formatter.write_paragraph()
            formatter.write_text(about.strip())

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Options by group, then the examples."""
        placed = {name: heading for heading, names in GROUPS.items() for name in names}
        *_, last = GROUPS
        found: dict[str, list[tuple[str, str]]] = {heading: [] for heading in GROUPS}
        order = [name for names in GROUPS.values() for name in names]
        params = self.get_params(ctx)
        for param in sorted(
            params, key=lambda p: order.index(str(p.name)) if p.name in order else len(order)
        ):
            record = param.get_help_record(ctx)
            if record is not None:
                heading = "Output" if "--help" in param.opts else placed.get(str(param.name), last)
                # what a command is given by its place is what it reads
                heading = "Input" if isinstance(param, click.Argument) else heading
                found[heading].append(record)
        for heading in ("Model", "Input", "Computation", "Output"):
            if found[heading]:
                with formatter.section(heading):
                    formatter.write_dl(found[heading])
        _, _, examples = (self.help or "").partition("\b\n")
        if examples.strip():
            with formatter.section("Examples"):
                for line in examples.strip().splitlines():
                    formatter.write(f"{' ' * formatter.current_indent}{line.strip()}\n")
