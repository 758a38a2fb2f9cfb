"""Old names work, warn at the line that uses them, and are gone from what is listed."""

from __future__ import annotations

import inspect
import warnings

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

import depprobe
from depprobe import figures, store
from depprobe.errors import BadInput
from depprobe.renaming import moved, renamed, renamed_argument
from depprobe.runs import labelling


def test_an_argument_under_its_old_name():
    @renamed_argument("size", "n", since="0.3")
    def f(x, *, n=1):
        """About f."""
        return x * n

    with pytest.warns(
        DeprecationWarning, match=r"^f\(size=\.\.\.\) is f\(n=\.\.\.\) since depprobe 0\.3;"
    ) as said:
        assert f(2, size=3) == 6
    assert said[0].filename == __file__
    assert f(2, n=3) == 6
    assert (f.__doc__, list(inspect.signature(f).parameters)) == ("About f.", ["x", "n"])
    with pytest.raises(BadInput, match="f takes n, which was size; give one"):
        f(2, n=3, size=3)
    with pytest.raises(TypeError, match="sise"):
        f(2, sise=3)


def test_a_function_under_its_old_name():
    old = renamed(labelling.fingerprint, "digest", since="0.3")
    with pytest.warns(DeprecationWarning, match="^digest is fingerprint since") as said:
        assert old([1.0]) == labelling.fingerprint([1.0])
    assert (said[0].filename, old.__name__) == (__file__, "digest")


def test_a_name_that_moved():
    look = moved("depprobe.x", {"a": "depprobe.units:scaled"}, since="0.2")
    with pytest.raises(AttributeError, match=r"module 'depprobe\.x' has no attribute 'b'"):
        look("b")
    with pytest.warns(
        DeprecationWarning, match=r"^depprobe\.store\.fingerprint is depprobe\.runs\.labelling"
    ) as said:
        found = store.fingerprint
    assert found is labelling.fingerprint
    assert said[0].filename == __file__
    with pytest.warns(DeprecationWarning, match=r"^depprobe\.figures\.efficiency is depprobe\.ledger\.costs"):
        assert callable(figures.efficiency)
    with pytest.raises(AttributeError, match="no attribute 'efficiencies'"):
        figures.efficiencies  # noqa: B018
    assert not {"efficiency", "fingerprint", "provenance"} & {*figures.__all__, *store.__all__}


@pytest.mark.parametrize(
    "name",
    [
        one
        for one in figures.__all__
        if inspect.isfunction(getattr(figures, one)) and one not in ("format_of", "panels", "save", "venue")
    ],
)
def test_every_figure_takes_axes_as_ax(name):
    figure = getattr(figures, name)
    assert "axes" not in inspect.signature(figure).parameters
    with pytest.raises(BadInput, match=f"{name} takes ax, which was axes"):
        figure(ax=None, axes=None)


def test_a_curve_is_drawn_into_axes():
    lag = np.arange(20)
    ds = xr.Dataset(
        {"log_norm": (("target", "source"), [-lag[::-1] * 1.0])},
        {"target": [19], "source": lag, "position": ("target", [19.0])},
    )
    ax = Figure().subplots()
    with pytest.warns(DeprecationWarning, match=r"decay\(axes=\.\.\.\) is decay\(ax=\.\.\.\)"):
        drawn = depprobe.figures.decay(ds, axes=ax)
    assert drawn.lines[0].axes is ax
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        depprobe.figures.decay(ds, ax=Figure().subplots())
