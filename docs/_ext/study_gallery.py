"""The studies as gallery pages: the docstring as text, the figure as its script draws it.

A study writes through its own ``main``, so each one runs here as the command a reader would type. Where
``studies/out`` holds its dataset the figure is drawn from that (``--plot``), else from ``--quick``, which
computes again only what has changed. Studies run side by side, those that take times by themselves.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util import logging
from written import write

from depprobe import store

DOCS = Path(__file__).parent.parent
STUDIES = DOCS.parent / "studies"
KEPT = DOCS / "_build" / "studies"
SCRIPTS = DOCS / "generated" / "study_scripts"
PICTURES = DOCS / "generated" / "pictures"
#: studies that take times, and so run by themselves
TIMED = ("05_complexity", "06_efficiency_table", "07_sparse_patterns", "08_hybrid", "11_decision_map")
HEADER = """\
Studies
=======

Each study asks one question, and its page gives the answer, the figure and the script. ``python
studies/NAME.py`` computes the dataset and draws the figure; ``--quick`` computes a small version, in a minute
at most.
"""

log = logging.getLogger(__name__)


def as_rst(text: str) -> str:
    """Plain text as reStructuredText: ``code`` stays, indented paragraphs are literal, the rest escaped."""
    made = []
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        if paragraph.startswith(" "):
            made.append("::\n\n" + paragraph)
            continue
        pieces = re.split(r"(``.+?``)", paragraph)
        made.append("".join(p if p.startswith("``") else re.sub(r"([\\*`|_])", r"\\\1", p) for p in pieces))
    return "\n\n".join(made)


def run(script: Path) -> str:
    """Draw the picture of a study; the words that say from what."""
    data = STUDIES / "out" / f"{script.stem}.nc"
    stored = data.exists()
    folder, how = (KEPT / "stored", "--plot") if stored else (KEPT / "quick", "--quick")
    folder.mkdir(parents=True, exist_ok=True)
    if stored:
        shutil.copyfile(data, folder / data.name)
    log.info("drawing %s %s", script.name, how)
    command = [sys.executable, str(script), how, "--out", str(folder)]
    paths = [str(DOCS.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise ExtensionError(f"{script.name} {how} failed:\n{done.stderr}")
    PICTURES.mkdir(parents=True, exist_ok=True)
    drawn, picture = folder / f"{script.stem}.png", PICTURES / f"{script.stem}.png"
    if not picture.exists() or picture.read_bytes() != drawn.read_bytes():
        shutil.copyfile(drawn, picture)
    return "the dataset in studies/out" if stored else "the quick version"


def listing(script: Path) -> list[str]:
    """The table that a study made for a paper, as LaTeX; nothing where it made none."""
    stored, quick = STUDIES / "out" / f"{script.stem}.nc", KEPT / "quick" / f"{script.stem}.nc"
    table = str(store.load(stored if stored.exists() else quick).attrs.get("table", ""))
    lines = [f"   {line}" for line in table.splitlines()]
    return ["", ".. code-block:: latex", "", *lines] if lines else []


def page(script: Path, drawn: str) -> str:
    """The script as the gallery reads it: title, picture with what it was drawn from, text, then the code."""
    source = script.read_text(encoding="utf-8")
    tree = ast.parse(source)
    docstring = tree.body[0]
    if not (isinstance(docstring, ast.Expr) and isinstance(docstring.value, ast.Constant)):
        raise ExtensionError(f"{script} has no docstring")
    title, _, text = str(docstring.value.value).partition("\n")
    head = "\n".join(
        [
            title,
            "=" * len(title),
            "",
            as_rst(text),
            "",
            f".. figure:: /generated/pictures/{script.stem}.png",
            f"   :alt: {title}",
            "",
            f"   ``studies/{script.name}``, drawn from {drawn}.",
            *listing(script),
        ]
    )
    code = "\n".join(source.splitlines()[docstring.end_lineno :])
    thumbnail = f"# sphinx_gallery_thumbnail_path = 'generated/pictures/{script.stem}.png'"
    return f'r"""\n{head}\n"""\n{code}\n\n{thumbnail}\n'


def prepare(app: Sphinx, config: Any) -> None:
    """Write what the gallery reads; scripts that are gone leave it too."""
    scripts = sorted(STUDIES.glob("[0-9][0-9]_*.py"))
    write(SCRIPTS / "GALLERY_HEADER.rst", HEADER)
    for old in set(SCRIPTS.glob("*.py")) - {SCRIPTS / script.name for script in scripts}:
        old.unlink()
    with ThreadPoolExecutor(os.cpu_count()) as side_by_side:
        untimed = [script for script in scripts if script.stem not in TIMED]
        drawn = dict(zip(untimed, side_by_side.map(run, untimed), strict=True))
    for script in scripts:
        write(SCRIPTS / script.name, page(script, drawn.get(script) or run(script)))


def setup(app: Sphinx) -> dict[str, Any]:
    """Prepare the studies before the gallery is built."""
    app.connect("config-inited", prepare)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
