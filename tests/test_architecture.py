"""The layout, read from the source: imports point down, stored results need no torch, nothing unpickles."""

from __future__ import annotations

import ast
import graphlib
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

import depprobe

ROOT = Path(depprobe.__file__).parent

#: from bottom to top; a component imports those on lines above its own, and none on its own line
ORDER = (
    ("_version", "vocabulary", "units"),
    ("errors",),
    ("registry", "renaming", "user_cache"),
    ("complexity",),
    ("core",),
    ("layers",),
    ("operators",),
    ("dynamics",),
    ("models",),
    ("costs",),
    ("theory",),
    ("curves",),
    ("store",),
    ("figures",),
    ("report",),
    ("runs",),
    ("probes",),
    ("advice",),
    ("ledger",),
    ("cli",),
    ("__main__",),
)
RANK = {component: rank for rank, line in enumerate(ORDER) for component in line}
WITHOUT_TORCH = {
    *("_version", "errors", "vocabulary", "units", "registry", "renaming", "complexity", "user_cache"),
    *("store", "curves", "theory", "figures", "report", "cli"),
}
#: packages of one idea a file, which know nothing of each other
SIBLINGS = ("layers", "probes")
#: most .py files of a folder beside ``__init__``, and most lines of a file
MOST_FILES, MOST_LINES = 12, 300
UNPICKLERS = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {name_of(path): path.read_text(encoding="utf-8") for path in sorted(ROOT.rglob("*.py"))}


parsed = cache(ast.parse)


@pytest.fixture(scope="module", autouse=True)
def _trees_are_released():
    """Costs collect garbage before they measure, which would go through the trees each time."""
    yield
    parsed.cache_clear()


def statements(tree: ast.AST, everywhere: bool) -> Iterator[ast.AST]:
    """Every node; or, unless ``everywhere``, those that run when the module is imported."""
    for node in ast.iter_child_nodes(tree):
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        guarded = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        if everywhere or not (inside or guarded):
            yield node
            yield from statements(node, everywhere)


@cache
def imports(
    source: str, everywhere: bool = True, known: frozenset[str] = frozenset(SOURCES)
) -> frozenset[str]:
    """The modules that a source imports, by their full names."""
    found = set()
    for node in statements(parsed(source), everywhere):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in known else str(node.module))
    return frozenset(found)


def component(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def own(modules: Iterable[str]) -> set[str]:
    return {m for m in modules if m.split(".")[0] == "depprobe"}


def upward(module: str, source: str) -> list[str]:
    """The imports of a module that do not point down; the package itself stands above all that is in it."""
    here = component(module)
    return [
        other
        for other in sorted(own(imports(source)))
        if component(other) != here and (not component(other) or RANK[component(other)] >= RANK[here])
    ]


def loaded_with(module: str) -> set[str]:
    """All modules that importing one of ours runs or asks for, the packages above them included."""
    reached: set[str] = set()
    waiting = {module}
    while waiting:
        name = waiting.pop()
        reached.add(name)
        parents = {name.rsplit(".", depth)[0] for depth in range(1, name.count(".") + 1)}
        inner = imports(SOURCES[name], everywhere=False) if name in SOURCES else frozenset()
        waiting |= (parents | inner) - reached
    return reached


def unsafe_loads(source: str) -> list[str]:
    """What in a source could run code that a file brings along."""
    faults = [f"import {name}" for name in imports(source) if name.split(".")[0] in UNPICKLERS]
    for node in ast.walk(parsed(source)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if called in ("eval", "exec"):
            faults.append(called)
        if called == "torch.load" and given.get("weights_only") != "True":
            faults.append("torch.load")
        if called in ("np.load", "numpy.load") and given.get("allow_pickle", "False") != "False":
            faults.append("np.load")
        if called.endswith(("read_pickle", "to_pickle")):
            faults.append(called)
    return faults


def test_a_file_opens_with_what_it_is_for():
    opening = {m: (ast.get_docstring(parsed(source)) or "").split("\n")[0] for m, source in SOURCES.items()}
    assert [m for m, line in opening.items() if not line.strip()] == []


def test_every_component_has_a_place_in_the_order():
    assert {component(module) for module in SOURCES} - {""} <= set(RANK)


def test_imports_point_down():
    found = {m: upward(m, source) for m, source in SOURCES.items() if component(m)}
    assert {m: others for m, others in found.items() if others} == {}


def test_an_import_that_points_up_is_seen_wherever_it_stands():
    assert upward("depprobe.layers.x", "from depprobe.operators import dispatch") == [
        "depprobe.operators.dispatch"
    ]
    assert upward("depprobe.curves.x", "def f():\n    from depprobe import store") == ["depprobe.store"]
    assert upward("depprobe.store", "import depprobe.figures.decay") == ["depprobe.figures.decay"]
    assert upward("depprobe.store", "import torch\nfrom depprobe.errors import BadInput") == []
    assert upward("depprobe.store", "def f():\n    import depprobe") == ["depprobe"]
    assert upward("depprobe.cli.x", "from depprobe import jacobian, store") == ["depprobe"]


def test_a_folder_holds_few_files():
    folders = [ROOT, *(path for path in sorted(ROOT.rglob("*")) if path.is_dir())]
    held = {folder.relative_to(ROOT): {path.name for path in folder.glob("*.py")} for folder in folders}
    assert [
        at for at, names in held.items() if len(names - {"__init__.py", "__main__.py"}) > MOST_FILES
    ] == []
    # a folder without one is missing in the wheel
    assert [at for at, names in held.items() if names and "__init__.py" not in names] == []


def test_the_root_holds_the_ground_alone():
    assert {path.stem for path in ROOT.glob("*.py")} == {
        *("__init__", "__main__", "_version"),
        *("errors", "vocabulary", "units", "registry", "renaming", "complexity", "user_cache"),
    }


def test_a_file_is_short():
    lines = {m: source.count("\n") for m, source in SOURCES.items()}
    assert {m: count for m, count in lines.items() if count > MOST_LINES} == {}


def test_the_library_does_not_know_the_article():
    """Statements and what they are from belong to the ledger, and to the commands that print it."""
    outside = {m: text for m, text in SOURCES.items() if component(m) not in ("ledger", "cli")}
    assert [m for m, text in outside.items() if re.search(r"\barticle|\bclaim (C\d)?", text, re.I)] == []


@pytest.mark.parametrize("package", SIBLINGS)
def test_siblings_do_not_import_each_other(package):
    modules = {m for m in SOURCES if component(m) == package}
    crossing = {m: own(imports(SOURCES[m])) & modules - {m} for m in modules}
    assert {m: sorted(others) for m, others in crossing.items() if others} == {}


def test_kinds_of_figure_do_not_import_each_other():
    # panels of one figure are figures of other kinds
    kinds = {m for m in own(imports(SOURCES["depprobe.figures"])) & set(SOURCES) if component(m) == "figures"}
    kinds -= {"depprobe.figures.panels"}
    assert len(kinds) > 1
    assert {m: sorted(own(imports(SOURCES[m])) & kinds - {m}) for m in kinds} == {m: [] for m in kinds}


def test_modules_do_not_import_in_circles():
    graph = {m: own(imports(source, everywhere=False)) - {m, "depprobe"} for m, source in SOURCES.items()}
    graphlib.TopologicalSorter(graph).prepare()


def test_what_reads_and_draws_stored_results_imports_no_torch():
    reading = [m for m in SOURCES if component(m) in ("", *WITHOUT_TORCH)]
    found = {m: {name.split(".")[0] for name in loaded_with(m)} for m in reading}
    assert {m: names & {"torch", "jax", "transformers"} for m, names in found.items()} == {
        m: set() for m in reading
    }


def test_the_graph_sees_torch_where_it_is():
    assert "torch" in loaded_with("depprobe.probes.jacobian")
    assert "torch" in loaded_with("depprobe.runs.cases")


def test_what_reads_and_draws_stored_results_loads_where_torch_is_missing():
    modules = [m for m in SOURCES if component(m) in ("", *WITHOUT_TORCH)]
    code = f"import sys; sys.modules['torch'] = None\nfor m in {modules!r}: __import__(m)"
    path = os.pathsep.join(filter(None, [str(ROOT.parent), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_nothing_unpickles():
    found = {m: unsafe_loads(source) for m, source in SOURCES.items()}
    assert {m: faults for m, faults in found.items() if faults} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    from pickle import loads",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "eval(text)",
    ],
)
def test_unsafe_loads_are_seen(source):
    assert len(unsafe_loads(source)) == 1


@pytest.mark.parametrize("source", ["torch.load(p, weights_only=True)", "np.load(p)", "module.eval()"])
def test_safe_loads_are_let_be(source):
    assert unsafe_loads(source) == []
