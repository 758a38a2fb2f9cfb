"""Decay curves that a reader explores: norms under the pointer, layers chosen, axes changed.

Bokeh draws them in the browser, from numbers and a script that both are inside the page. It is an extra, so
that a page without it has its figures alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: most curves that one plot tells apart
MOST = 24
#: most points of a curve; of more, some at equal distances and some at equal ratios of lag
POINTS = 400
#: characters of a name in the legend, which stands below the plot on a phone too
_NAMED = 40
#: height in pixels of the plot, and of a line of its legend
_HIGH, _LINE = 380, 23
_DASHES = ("solid", "dashed", "dotdash", "dotted")
#: what a choice of values offers besides each of them
_ALL = "all"
_TOOLTIPS = [
    ("layer", "@name"),
    ("lag", "@lag"),
    ("norm", "@norm"),
    ("5 to 95 %", "@band"),
    ("error", "@error"),
]
#: axis of norms -> column
_NORMS = {"log10 norm": "log10", "ln norm": "ln"}


@dataclass(frozen=True)
class Curve:
    """A decay curve.

    Attributes
    ----------
    name : what the legend calls it.
    at : what readers choose it by, such as its layer and length: axis -> value.
    lag : (m,) lags.
    ln : (m,) natural logs of norms; -inf an exact zero, NaN not known.
    norm, band, error : (m,) norms, their 5 to 95 % range and their relative error, as readers see them.
    """

    name: str
    at: dict[str, str]
    lag: NDArray[np.int64]
    ln: NDArray[np.float64]
    norm: Sequence[str]
    band: Sequence[str]
    error: Sequence[str]


def thinned(lags: NDArray[np.int64], most: int = POINTS) -> NDArray[np.int64]:
    """Which of many lags to draw, so that neither a linear nor a logarithmic axis has gaps; ends are kept.

    Examples
    --------
    >>> kept = thinned(np.arange(10**6))
    >>> kept[[0, 1, 2, -1]].tolist(), len(kept) <= POINTS
    ([0, 1, 2, 999999], True)
    """
    m = len(lags)
    if m <= most:
        return np.arange(m)
    half = most // 2
    even = np.linspace(0, m - 1, half)
    start = int(np.abs(lags).argmin())
    ratios = start + np.geomspace(1, m - start, most - half) - 1
    return np.unique(np.concatenate([even, ratios]).round().astype(np.int64))


def interactive(curves: Sequence[Curve]) -> tuple[str, str] | None:
    """The script that draws, and the element with the curves; None where Bokeh is not installed."""
    try:
        from bokeh.embed import json_item
        from bokeh.resources import Resources
    except ImportError:
        return None
    script = Resources(mode="inline", components=["bokeh", "bokeh-widgets"]).render_js()
    # whatever a name holds, it cannot end the script
    item = json.dumps(json_item(explorer(curves))).replace("<", "\\u003c")
    return script, f'<div id="curves"></div><script>Bokeh.embed.embed_item({item}, "curves")</script>'


def explorer(curves: Sequence[Curve]) -> Any:
    """Bokeh's plots of curves on a linear and on a logarithmic axis of lags, and the widgets that choose."""
    from bokeh.layouts import column, row
    from bokeh.models import CustomJS, MultiSelect, Select

    from depprobe.figures.drawing.style import COLOURS

    data = [_column_data(curve) for curve in curves]
    looks = [
        {"line_color": COLOURS[i % len(COLOURS)], "line_dash": _DASHES[i // len(COLOURS) % len(_DASHES)]}
        for i in range(len(curves))
    ]
    linear, of_linear = _plot("linear", curves, data, looks)
    log, of_log = _plot("log", curves, data, looks)
    log.visible = False
    for one, other in zip(of_linear, of_log, strict=True):
        one.js_link("visible", other, "visible")
        other.js_link("visible", one, "visible")

    lags = Select(title="lag", value="linear", options=["linear", "logarithmic"])
    shown = "linear.visible = this.value == 'linear'; log.visible = !linear.visible;"
    lags.js_on_change("value", CustomJS(args={"linear": linear, "log": log}, code=shown))
    norms = Select(title="axis of norms", value=next(iter(_NORMS)), options=list(_NORMS))
    change = (
        "for (const r of lines) { r.glyph.y = {field: columns[this.value]} }"
        "for (const a of axes) { a.axis_label = this.value }"
    )
    axes = {"lines": [*of_linear, *of_log], "axes": [linear.yaxis[0], log.yaxis[0]], "columns": _NORMS}
    norms.js_on_change("value", CustomJS(args=axes, code=change))

    choices: dict[str, Any] = {}
    for axis in dict.fromkeys(axis for curve in curves for axis in curve.at):
        values = list(dict.fromkeys(curve.at.get(axis, "") for curve in curves))
        if axis == "layer" and len(values) > 1:
            size = min(len(values) + 1, 6)
            choices[axis] = MultiSelect(title=axis, value=values, options=values, size=size)
        elif len(values) > 1:
            choices[axis] = Select(title=axis, value=_ALL, options=[_ALL, *values])
    choose = CustomJS(
        args={"choices": choices, "lines": of_linear, "at": [curve.at for curve in curves], "all": _ALL},
        code="""
        const chosen = choices instanceof Map ? [...choices] : Object.entries(choices)
        const of = (i, axis) => at[i] instanceof Map ? at[i].get(axis) : at[i][axis]
        lines.forEach((line, i) => {
          line.visible = chosen.every(([axis, w]) =>
            Array.isArray(w.value) ? w.value.includes(of(i, axis)) : w.value == all || w.value == of(i, axis))
        })""",
    )
    for widget in choices.values():
        widget.js_on_change("value", choose)
    widgets = [*choices.values(), lags, norms]
    for widget in widgets:
        widget.width = 160
    rows = row(*widgets, sizing_mode="stretch_width", styles={"flex-wrap": "wrap"})
    return column(rows, linear, log, sizing_mode="stretch_width")


def _column_data(curve: Curve) -> dict[str, list[Any]]:
    kept = thinned(curve.lag)
    ln = np.where(np.isfinite(curve.ln), curve.ln, np.nan)[kept]
    lag = curve.lag[kept]
    columns = {name: [texts[i] for i in kept] for name, texts in _texts(curve).items()}
    # a logarithmic axis has no place for lag 0
    behind = np.where(lag > 0, lag, np.nan)
    return columns | {
        "lag": lag.tolist(),
        "behind": behind.tolist(),
        "ln": [float(f"{value:.7g}") for value in ln],
        "log10": [float(f"{value / math.log(10):.7g}") for value in ln],
        "name": [curve.name] * len(kept),
    }


def _texts(curve: Curve) -> dict[str, Sequence[str]]:
    return {"norm": curve.norm, "band": curve.band, "error": curve.error}


def _plot(scale: str, curves: Sequence[Curve], data: Sequence[Any], looks: Sequence[Any]) -> Any:
    """A plot on one scale of lags, and its lines."""
    from bokeh.models import ColumnDataSource, HoverTool, Legend, LegendItem, Range1d
    from bokeh.plotting import figure

    plot: Any = figure(
        height=_HIGH + _LINE * len(curves),
        sizing_mode="stretch_width",
        x_axis_type=scale,
        x_axis_label="lag",
        y_axis_label=next(iter(_NORMS)),
        tools="pan,box_zoom,wheel_zoom,reset",
        active_drag=None,
    )
    x, y = "lag" if scale == "linear" else "behind", next(iter(_NORMS.values()))
    lines = [
        plot.line(x, y, source=ColumnDataSource(columns), line_width=2, **look)
        for columns, look in zip(data, looks, strict=True)
    ]
    names = [c.name if len(c.name) <= _NAMED else f"{c.name[: _NAMED - 1]}…" for c in curves]
    items = [LegendItem(label=name, renderers=[line]) for name, line in zip(names, lines, strict=True)]
    legend = Legend(
        items=items, click_policy="hide", ncols=1, border_line_color=None, glyph_width=32, location="top_left"
    )
    plot.add_layout(legend, "below")
    if scale == "log":
        plot.x_range = Range1d(1, max(2, *(int(curve.lag.max()) for curve in curves)))
    plot.add_tools(HoverTool(tooltips=_TOOLTIPS, mode="mouse", line_policy="nearest"))
    plot.toolbar.logo = None
    return plot, lines
