"""A summary as a table: text for a terminal, LaTeX, CSV or Markdown. No torch here.

A table of text that is wider than the terminal has a row for each layer, in as many blocks as it takes.
"""

from __future__ import annotations

import csv
import io
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from depprobe.cli.output import Summary, labels_in, names_in
from depprobe.errors import BadInput, unknown, wrong_number

if TYPE_CHECKING:
    from rich.table import Table

#: a number with a sign, decimals or an exponent, as summaries write it
_NUMBER = re.compile(r"(?<![\w.])([-+]?)(\d+(?:\.\d+)?)(?:e([+-]?\d+))?(?![\w.])")
#: characters that LaTeX takes for something else, or lacks
_LATEX = {character: f"\\{character}" for character in "&%_#$"} | {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "^": r"\^{}",
    "~": r"\textasciitilde{}",
    "<": r"$<$",
    ">": r"$>$",
    "µ": r"$\mu$",
    "×": r"$\times$",
    "÷": r"$\div$",
    "±": r"$\pm$",
    "\u2013": "--",
}
#: most layers that stand side by side in LaTeX and Markdown; of more, each has a row
BESIDE = 4
#: characters from which a column of text is set in lines of its own in LaTeX
_LONG = 40
#: characters that Markdown takes for something else
_MARKUP = str.maketrans({character: f"\\{character}" for character in "|*`<"})
MISSING, _EN_DASH, _MINUS = "-", "\u2013", "\N{MINUS SIGN}"


def chosen(
    summary: Summary, rows: str | Sequence[str] | None = None, labels: str | Sequence[str] | None = None
) -> Summary:
    """The rows asked for, and layers under other names.

    Parameters
    ----------
    summary : of the dataset.
    rows : headings, or how they begin, a list or separated by commas; None keeps all.
    labels : one name for each layer, or for each column, likewise; None keeps their own.

    Raises
    ------
    BadInput : a row that there is not, or a wrong number of labels.
    """
    if labels is not None:
        names = labels_in(labels, apart=not summary.groups)
        layers = layers_of(summary)
        if len(names) not in (len(summary.columns), len(layers)):
            what = "matrix" if "matrix" in summary.records[0] else "layer"
            raise wrong_number(len(names), "label", len(layers), what)
        if len(names) == len(layers):
            summary = renamed(summary, dict(zip(layers, names, strict=True)))
        else:
            key = next(iter(summary.records[0]))
            columns = [[name, *column[1:]] for name, column in zip(names, summary.columns, strict=True)]
            named = [record | {key: name} for record, name in zip(summary.records, names, strict=True)]
            summary = replace(summary, columns=columns, records=named)
    columns = [list(column) for column in summary.columns]
    headings = list(summary.headings)
    if rows is not None:
        asked = names_in(rows)
        if not asked:
            raise BadInput("rows names none; leave it out to show all")
        kept = [0, *dict.fromkeys(i for one in asked for i in _rows(one.strip(), headings))]
        headings = [headings[i] for i in kept]
        columns = [[column[i] for i in kept] for column in columns]
    return replace(summary, headings=headings, columns=columns)


def layers_of(summary: Summary) -> list[str]:
    """The layers of a summary, each once, in their order."""
    return list(dict.fromkeys(str(next(iter(record.values()))) for record in summary.records))


def renamed(summary: Summary, names: Mapping[str, str]) -> Summary:
    """Layers under other names; what a column says besides its layer, a width or a pass, is left."""
    key = next(iter(summary.records[0]), "") if summary.records else ""
    columns, records = [], []
    for column, record in zip(summary.columns, summary.records, strict=True):
        own = str(record[key])
        name = names.get(own, own)
        columns.append([column[0].replace(own, name, 1), *column[1:]])
        records.append(record | {key: name})
    return replace(summary, columns=columns, records=records)


def _rows(name: str, headings: Sequence[str]) -> list[int]:
    """The row of a name, else all that begin so."""
    bare = {i: heading.split(" (")[0] for i, heading in enumerate(headings) if i}
    for matches in (lambda one: one == name, lambda one: one.startswith(name)):
        found = [i for i, heading in bare.items() if matches(heading) or matches(headings[i])]
        if name and found:
            return found
    raise unknown("row", name, bare.values())


def as_text(summary: Summary, width: int | None = None) -> str:
    """The table as printed: a column for each layer, or a row if it is upright or wider than the terminal.

    ``width`` in characters; None takes that of the terminal, and as much as it needs where there is none.
    """
    if width is None and sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
    laid = laid_out(summary)
    if width is None or _needed(laid) <= width:
        return "\n".join([summary.title, _printed(laid)])
    first, *rest = laid_out(replace(summary, upright=True))
    blocks: list[list[int]] = [[]]
    for i in range(1, len(first)):
        held = [0, *blocks[-1], i]
        if blocks[-1] and _needed([[row[j] for j in held] for row in (first, *rest)]) > width:
            blocks.append([])
        blocks[-1].append(i)
    tables = [[[row[j] for j in (0, *block)] for row in (first, *rest)] for block in blocks]
    return "\n".join([summary.title, *(_printed(table, width) for table in tables)])


def _needed(rows: Sequence[Sequence[str]]) -> int:
    """Characters that a table is wide."""
    return sum(max(len(cell) for cell in column) + 3 for column in zip(*rows, strict=True)) - 1


def _printed(rows: Sequence[Sequence[str]], width: int | None = None) -> str:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    heads, *rest = rows
    for head, numbers in zip(heads, _of_numbers(rows), strict=True):
        table.add_column(escape(head), justify="right" if numbers else "left", overflow="fold")
    for row in rest:
        table.add_row(*(escape(_EN_DASH if cell == MISSING else cell) for cell in row))
    # as wide as the layers need, where no terminal limits it
    return rendered(table, width or 40 + 30 * len(heads))


def _of_numbers(rows: Sequence[Sequence[str]]) -> list[bool]:
    """Of each column whether it holds numbers, in half of its cells or more; the first names the rows."""
    told = [[cell == MISSING or _NUMBER.match(cell) is not None for cell in row] for row in rows[1:]]
    return [False, *(2 * sum(column) >= len(column) for column in list(zip(*told, strict=True))[1:])]


def laid_out(summary: Summary, most: int | None = None) -> list[list[str]]:
    """Rows of cells as they are printed, headings first; of more layers than ``most``, each is a row."""
    rows = [summary.headings, *summary.columns]
    if summary.groups:
        blank = [""] * (len(summary.headings) - 1)
        starts = [g not in summary.groups[:i] for i, g in enumerate(summary.groups)]
        named = zip(summary.groups, starts, summary.columns, strict=True)
        rows[1:] = [row for group, new, column in named for row in ([[group, *blank]] * new + [column])]
    if summary.upright or (most is not None and len(summary.columns) > most):
        return rows
    return [list(row) for row in zip(["", *summary.headings[1:]], *summary.columns, strict=True)]


def rendered(table: Table, width: int) -> str:
    """A table of rich as plain text, without blank lines, for a terminal so many characters wide."""
    from rich.console import Console

    out = io.StringIO()
    Console(file=out, width=width, force_terminal=False).print(table)
    return "\n".join(filter(None, (line.rstrip() for line in out.getvalue().splitlines())))


def as_csv(summary: Summary) -> str:
    """The table as CSV with full precision; norms as natural logs."""
    out = io.StringIO()
    records = summary.records
    if summary.groups:
        records = [{"group": g} | record for g, record in zip(summary.groups, records, strict=True)]
    keys = list(dict.fromkeys(key for record in records for key in record))
    writer = csv.DictWriter(out, keys, lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow({k: ";".join(v) if isinstance(v, list) else v for k, v in record.items()})
    return out.getvalue().rstrip("\n")


def as_latex(summary: Summary) -> str:
    """The table as a LaTeX tabular (booktabs): numbers in math mode, a missing one as an en dash."""
    table = laid_out(summary, BESIDE)
    sides = []
    for column, numbers in zip(zip(*table, strict=True), _of_numbers(table), strict=True):
        wide = max(map(len, column)) > _LONG and not numbers
        sides.append(r"p{0.3\linewidth}" if wide else "r" if numbers else "l")
    heads, *rows = table
    lines = [
        rf"\begin{{tabular}}{{{''.join(sides)}}}",
        r"\toprule",
        " & ".join(map(_words, heads)) + r" \\",
        r"\midrule",
    ]
    for i, (name, *cells) in enumerate(rows):
        if any(cells):
            lines.append(" & ".join([_first(name), *map(_latex, cells)]) + r" \\")
        else:
            lines += [r"\addlinespace"] * bool(i)
            lines.append(rf"\multicolumn{{{len(heads)}}}{{l}}{{\textit{{{_words(name)}}}}} \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def _first(text: str) -> str:
    # behind a line's end, LaTeX takes a bracket or a star for an argument
    return ("{}" if text[:1] in ("[", "*") else "") + _words(text)


def _words(text: str) -> str:
    """Words as LaTeX prints them; formulas between dollars stay."""
    from depprobe.curves.names import in_formulas

    return "".join(
        piece if formula else "".join(_LATEX.get(character, character) for character in piece)
        for piece, formula in in_formulas(text)
    )


def _latex(cell: str) -> str:
    """A cell with its numbers in math mode.

    Examples
    --------
    >>> _latex("-0.4954 \u00b1 0.0011"), _latex("1.5e-14"), _latex("2.4 [-1, 2]"), _latex("-")
    ('$-0.4954 \\\\pm 0.0011$', '$1.5\\\\cdot 10^{-14}$', '$2.4$ [$-1$, $2$]', '--')
    """
    if cell == MISSING:
        return "--"
    pieces, last = [], 0
    # the whole numbers of a sentence are words of it
    prose = _NUMBER.match(cell) is None
    for found in _NUMBER.finditer(cell):
        sign, digits, power = found.groups()
        if prose and not (sign or power or "." in digits):
            continue
        number = f"{sign}{digits}" + (rf"\cdot 10^{{{int(power)}}}" if int(power or 0) else "")
        pieces += [_words(cell[last : found.start()]), f"${number}$"]
        last = found.end()
    text = "".join([*pieces, _words(cell[last:])])
    return re.sub(r"\binf\b", r"$\\infty$", text).replace(r"$ $\pm$ $", r" \pm ").replace("$-$", "")


def as_markdown(summary: Summary) -> str:
    """The table in Markdown, a missing number as an en dash."""
    table = laid_out(summary, BESIDE)
    heads, *rows = table
    lines = [
        heads,
        ["---:" if numbers else "---" for numbers in _of_numbers(table)],
        *([row[0], *map(marked, row[1:])] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(cell.translate(_MARKUP) for cell in row)} |" for row in lines)


def marked(cell: str) -> str:
    """A cell with true minus signs."""
    if cell == MISSING:
        return _EN_DASH
    return _NUMBER.sub(lambda found: found[0].replace("-", _MINUS), cell)


#: what ``--table`` takes
TABLES: dict[str, Callable[[Summary], str]] = {
    "text": as_text,
    "latex": as_latex,
    "csv": as_csv,
    "markdown": as_markdown,
}
