"""A summary as an HTML table for a notebook. No torch here."""

from __future__ import annotations

from depprobe.cli import tables
from depprobe.cli.output import Summary
from depprobe.figures.displaying import escaped


def as_html(summary: Summary) -> str:
    """The title, the table as ``depprobe show`` prints it, and the notes, escaped.

    Examples
    --------
    >>> as_html(Summary("n = 9", ["layer", "form"], [["<b>", "-"]], [{}])).count("<b>")
    0
    """
    heads, *rows = tables.laid_out(summary, tables.BESIDE)
    lines = [f"<p>{escaped(summary.title)}</p>", "<table>", _row("th", heads)]
    lines += [_row("td", [row[0], *map(tables.marked, row[1:])]) for row in rows]
    notes = "<br>".join(map(escaped, summary.notes))
    return "\n".join([*lines, "</table>", f"<p><small>{notes}</small></p>" if notes else ""])


def _row(tag: str, cells: list[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escaped(cell)}</{tag}>' for cell in cells)}</tr>"
