"""Shared by all tests: one tolerance, scaled to the dtype; the command run in this process."""

from __future__ import annotations

import gc
from functools import cache

import pytest
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.mathtext import MathTextParser

from depprobe.figures.drawing import fitting

#: dots an inch of figures that are sketched
SKETCH_DPI = 50
#: characters are embedded as outlines: to cut a TrueType font to them takes a third of a second
SKETCH_FONTS = {"pdf.fonttype": 3}


def tolerance(dtype: torch.dtype = torch.float64) -> float:
    """Relative tolerance of two routes to one number: 1e-10 in float64, in proportion elsewhere."""
    return 1e-10 * torch.finfo(dtype).eps / torch.finfo(torch.float64).eps


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What is loaded and collected stays to the end: no garbage is looked for among it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_modifyitems(items):
    """Studies take longest and come first, so that no process ends long after the others."""
    items.sort(key=lambda item: item.path.name != "test_studies.py")


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _what_is_loaded_is_no_garbage():
    """Costs collect garbage before they measure, which goes through all modules of the run each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _formulas_are_parsed_once():
    """Matplotlib keeps what it has parsed for one renderer alone, and every figure has several."""
    parsed, first = cache(MathTextParser._parse_cached.__wrapped__), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            MathTextParser,
            "_parse_cached",
            lambda self, *key: parsed(first.setdefault(self._output_type, self), *key),
        )
        yield


@pytest.fixture
def coarse(monkeypatch):
    """Figures are fitted to their page when they are saved for the first time, and saved in few dots."""
    save, fitted = Figure.savefig, set()

    def few_dots(figure, *args, dpi, **kwargs):
        if figure in fitted:
            figure.set_layout_engine(None)
        fitted.add(figure)
        with rc_context(SKETCH_FONTS):
            return save(figure, *args, dpi=min(dpi, SKETCH_DPI), **kwargs)

    monkeypatch.setattr(Figure, "savefig", few_dots)


@pytest.fixture
def sketched(monkeypatch):
    """Figures are drawn without fitting them to their page: how they look is tested apart from commands."""
    save = Figure.savefig

    def sketch(figure, *args, dpi, **kwargs):
        figure.set_layout_engine(None)  # with any there is a draw more
        with rc_context(SKETCH_FONTS):
            return save(figure, *args, dpi=min(dpi, SKETCH_DPI), **kwargs)

    monkeypatch.setattr(fitting, "_lay_out", lambda figure: None)
    monkeypatch.setattr(Figure, "savefig", sketch)


@pytest.fixture
def run(capsys, tmp_path, monkeypatch, sketched):
    """Run the command in this process and a folder of its own: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def go(*arguments: str) -> tuple[int, str, str]:
        from depprobe.cli import main

        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
        printed = capsys.readouterr()
        return stop.value.code, printed.out, printed.err

    return go


@pytest.fixture
def measured_here(monkeypatch):
    """Costs of named layers are measured in this process as the child does it, and listed: (layer, n)."""
    from depprobe.costs.point import costs
    from depprobe.probes import cost
    from depprobe.runs.cases import cases_of_specs

    points = []

    def here(request):
        points.append((request["layer"], request["n"]))
        spec, seed = [request["layer"]], [request["seed"]]
        (case,) = cases_of_specs(spec, None, request["n"], request["d"], 1, seed, request["dtype"], "cpu")
        return costs(case.build(), case.x, request["phases"], request["threads"], request["least"])

    monkeypatch.setattr(cost, "measured_alone", here)
    return points
