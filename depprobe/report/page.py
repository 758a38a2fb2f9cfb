"""The page: summary, curves, tables, figures, what is missing, provenance; all of it inside one file.

Whatever comes from data is escaped, and nothing is loaded: pictures are data URIs, style and script inline.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field

from depprobe.report.curves import MOST, Curve, interactive
from depprobe.report.formulas import untexed
from depprobe.report.provenance import Source, folded, text

#: type of a picture by the suffix of its file
TYPES = {"svg": "image/svg+xml", "png": "image/png"}
#: characters from which on the words of a cell may stand on several lines: of a name, of a sentence
_NAME, _LONG = 20, 60
#: most missing datasets that are listed
MOST_MISSING = 100
_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1rem; background: #fff; color: #1a1a1a;
  font: 1rem/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid #ccc; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
.wide { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: left; vertical-align: top; border-bottom: 1px solid #e2e2e2; }
.cells th, .cells td { white-space: nowrap; overflow-wrap: normal; }
.cells .long { white-space: normal; min-width: 14rem; }
.cells .name { white-space: normal; overflow-wrap: anywhere; min-width: 8rem; }
thead th { border-bottom: 1px solid #666; }
.pairs th { font-weight: 600; min-width: 7rem; }
figure { margin: 1rem 0; }
img { display: block; max-width: 100%; height: auto; }
figcaption, .note { color: #444; font-size: .875rem; max-width: 46rem; }
ul.note { padding-left: 1.2rem; }
details { border-bottom: 1px solid #e2e2e2; padding: .3rem 0; }
summary { cursor: pointer; padding: .2rem 0; }
#curves { width: 100%; overflow: hidden; }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } #explore { display: none; }
  .wide { overflow: visible; } .cells th, .cells td { white-space: normal; }
  figure, tr { break-inside: avoid; } }
"""


@dataclass(frozen=True)
class Table:
    """Rows of cells under headings, and what to know of them."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Picture:
    """A figure as a file of the type that ``suffix`` names, and its caption."""

    title: str
    data: bytes
    suffix: str
    caption: str


@dataclass(frozen=True)
class Page:
    """What a page shows.

    Attributes
    ----------
    title : heads it.
    facts : term -> what is said of it, above all else.
    curves : decay curves to explore; empty where there are none.
    tables, pictures, sources : in their order.
    missing : what there is no dataset of -> why.
    left_out : of what is shown only in part, how much is not.
    explore : whether readers can explore the curves.
    """

    title: str
    facts: dict[str, str]
    tables: Sequence[Table]
    pictures: Sequence[Picture]
    sources: Sequence[Source]
    curves: Sequence[Curve] = ()
    missing: dict[str, str] = field(default_factory=dict)
    left_out: Sequence[str] = ()
    explore: bool = True


def html_of(page: Page) -> str:
    """The page as HTML."""
    script, explored = _explored(page)
    parts = [
        f"<h1>{text(page.title)}</h1>",
        _pairs(page.facts),
        _notes(page.left_out),
        _missing(page.missing),
        explored,
        "<h2>Results</h2>" if page.tables else "",
        *map(_table, page.tables),
        "<h2>Figures</h2>" if page.pictures else "",
        *map(_figure, page.pictures),
        "<h2>Provenance</h2>",
        *map(folded, page.sources),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{text(page.title)}</title>\n<style>{_STYLE}</style>\n{script}\n</head>\n<body>\n<main>\n"
        + "\n".join(filter(None, parts))
        + "\n</main>\n</body>\n</html>\n"
    )


def _explored(page: Page) -> tuple[str, str]:
    """The script and the part of a page with curves to explore, or with what would add them."""
    if not page.curves or not page.explore:
        return "", ""
    found = interactive(page.curves[:MOST])
    if found is None:
        return "", '<p class="note">pip install depprobe[report] adds interactive curves to this page.</p>'
    script, element = found
    said = (
        "Norms by lag, medians over targets, samples and seeds. Click a name below the plot to hide its "
        "curve; exact zeros have no place on a logarithmic axis."
    )
    return script, f'<section id="explore"><h2>Curves</h2><p class="note">{said}</p>{element}</section>'


def _missing(reasons: dict[str, str]) -> str:
    if not reasons:
        return ""
    more = len(reasons) - MOST_MISSING
    said = [f"{more} more {'is' if more == 1 else 'are'} missing"] if more > 0 else []
    return f"<h2>Missing</h2>{_pairs(dict(list(reasons.items())[:MOST_MISSING]))}{_notes(said)}"


def _pairs(facts: dict[str, str]) -> str:
    rows = "".join(f"<tr><th scope=row>{text(k)}</th><td>{text(v)}</td></tr>" for k, v in facts.items())
    return f'<table class="pairs">{rows}</table>'


def _notes(lines: Sequence[str]) -> str:
    items = "".join(f"<li>{text(line)}</li>" for line in lines)
    return f'<ul class="note">{items}</ul>' if items else ""


def _table(table: Table) -> str:
    heads = "".join(f"<th scope=col>{text(head)}</th>" for head in table.heads)
    rows = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in table.rows)
    return (
        f'<h3>{text(table.title)}</h3><div class="wide" tabindex="0"><table class="cells">'
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>{_notes(table.notes)}"
    )


def _cell(words: str) -> str:
    # names of files and models break anywhere where there is no room, sentences between words
    kind = "name" if len(words) > _NAME and " " not in words else "long" if len(words) > _LONG else ""
    return f'<td class="{kind}">{text(words)}</td>' if kind else f"<td>{text(words)}</td>"


def _figure(picture: Picture) -> str:
    data, caption = base64.b64encode(picture.data).decode(), text(untexed(picture.caption))
    said = ". ".join(filter(None, (text(picture.title), caption)))
    source = f"data:{TYPES[picture.suffix]};base64,{data}"
    return f'<figure><img src="{source}" alt="{caption}"><figcaption>{said}</figcaption></figure>'
