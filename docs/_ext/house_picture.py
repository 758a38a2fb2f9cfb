"""The folders of the package as the floors of a house, with the imports between them as arcs.

A floor is a line of ``ORDER`` in ``tests/test_architecture.py``, the lowest at the bottom; its words are the
first sentence of the folder's own docstring. An arc runs from a folder up to one that imports it, as thick as
the square root of the number of files that do; arcs to the ground, which all import, are left out. Green
floors load without torch. ``python docs/_ext/house_picture.py`` writes the picture anew.
"""

from __future__ import annotations

import ast
import math
from html import escape
from pathlib import Path
from typing import Any

from written import write

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs" / "images" / "house.svg"
GROUND = "ground"
#: pixels: height of a floor, its width, the space for arcs beside it
FLOOR, WIDTH, ARCS = 46, 560, 210


def named(constant: str) -> list[str]:
    """The names in a constant of the test that guards the layout, in its order."""
    tree = ast.parse((ROOT / "tests" / "test_architecture.py").read_text("utf-8"))
    value = next(
        n.value for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets) == constant
    )
    return [node.value for line in value.elts for node in ast.walk(line) if isinstance(node, ast.Constant)]


def order() -> list[str]:
    """Folders of the package from bottom to top, the files of the root as one."""
    folders = [name for name in named("ORDER") if (ROOT / "depprobe" / name / "__init__.py").exists()]
    return [GROUND, *folders]


def folder_of(module: str, known: list[str]) -> str:
    """The floor that a module of the package stands on."""
    part = module.split(".")[1]
    return part if part in known else GROUND


def files_of(folder: str) -> list[Path]:
    """The Python files of a floor."""
    package = ROOT / "depprobe"
    if folder == GROUND:
        return [path for path in sorted(package.glob("*.py")) if not path.name.startswith("__")]
    return sorted((package / folder).rglob("*.py"))


def imported(file: Path) -> set[str]:
    """Modules of the package that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{name.name}" for name in node.names}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return {name for name in found if name.startswith("depprobe.")}


def arcs(floors: list[str]) -> dict[tuple[str, str], int]:
    """(folder, one that it imports) -> how many of its files do."""
    count: dict[tuple[str, str], int] = {}
    for floor in floors:
        for file in files_of(floor):
            for other in {folder_of(name, floors) for name in imported(file)} - {floor, GROUND}:
                count[floor, other] = count.get((floor, other), 0) + 1
    return count


def words(folder: str) -> str:
    """The first sentence of a folder's docstring."""
    if folder == GROUND:
        return "names, units, tables, spec strings, formulas of cost, errors"
    tree = ast.parse((ROOT / "depprobe" / folder / "__init__.py").read_text("utf-8"))
    return str(ast.get_docstring(tree)).split("\n")[0].split(". ")[0].replace("``", "").rstrip(".")


def picture() -> str:
    """The house as SVG."""
    floors = order()
    height = FLOOR * len(floors) + 20
    middle = {floor: height - 10 - FLOOR * (i + 0.5) for i, floor in enumerate(floors)}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH + ARCS} {height}" '
        f'font-family="DejaVu Sans, Helvetica, sans-serif">',
        f'<rect width="{WIDTH + ARCS}" height="{height}" fill="#ffffff"/>',
    ]
    for (importer, other), count in sorted(arcs(floors).items()):
        low, high = middle[other], middle[importer]
        reach = WIDTH + (ARCS - 20) * abs(low - high) / (height - FLOOR) * 1.3
        parts.append(
            f'<path d="M{WIDTH} {low:.0f} C{reach:.0f} {low:.0f} {reach:.0f} {high:.0f} {WIDTH} {high:.0f}" '
            f'fill="none" stroke="#3b6ea5" stroke-opacity="0.45" stroke-width="{math.sqrt(count):.2f}"/>'
        )
    free = {GROUND, *named("WITHOUT_TORCH")}
    for floor in floors:
        files = files_of(floor)
        y = middle[floor] - FLOOR / 2 + 2
        parts += [
            f'<rect x="10" y="{y:.0f}" width="{WIDTH - 10}" height="{FLOOR - 4}" rx="3" '
            f'fill="{"#e8f1e4" if floor in free else "#fbe9dd"}" stroke="#777777" stroke-width="0.7"/>',
            f'<text x="20" y="{y + 17:.0f}" font-size="14" font-weight="bold">{floor}</text>',
            f'<text x="{WIDTH - 10}" y="{y + 17:.0f}" font-size="11" text-anchor="end" fill="#555555">'
            f"{len([f for f in files if f.name != '__init__.py'])} files</text>",
            f'<text x="20" y="{y + 34:.0f}" font-size="11">{escape(words(floor))}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def setup(app: Any) -> dict[str, Any]:
    """Draw it before Sphinx looks for it."""
    app.connect("config-inited", lambda app, config: write(PICTURE, picture()))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    write(PICTURE, picture())
