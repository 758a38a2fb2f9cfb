"""What does training change: how far gradients reach, in how many directions, and how states diverge?

Seven trained networks out of public packages beside twins of the same shapes with weights as drawn before
training, on real input: decay curves, effective ranks, and in the recurrent ones the spectra of recurrent
weights, time constants of the gates that carry the state, and the first Lyapunov exponent.

Answer: training brings every recurrence to the edge, where its slowest direction neither decays nor grows:
first exponents lie within 0.006 nats of zero, where weights as drawn give -0.42 to -0.47.

Gradients then reach far: at lag 39 norms are 0.07 of those at lag 0 in silero-vad (1e-8 as drawn), 43 times
those at lag 0 in resemblyzer (1e-6), a third of them in typeseg's state space (1e-13), and 0.06 in minilm,
whose attention as drawn gives 0.003 at every lag. They arrive in few directions: effective ranks are 2 to 9
in trained networks, 6 to 150 in their twins. Eigenvalues of recurrent weights leave the unit circle, spectral
radii being 1.9 to 31 in place of 0.6, and yet no state diverges. Gates hold longer only where the task asks
for it: median time constants rise from 1.4 to 34 in the topmost LSTM of resemblyzer and fall to 0.3 in that
of textgenrnn; everywhere training parts units into fast and slow ones. Not all networks look further once
trained: attacut reads the ends of its window with 0.05 of the weight of the middle (0.43 as drawn), and
textgenrnn, whose attention as drawn weighs 40 characters alike, attends to the last ten.

Numbers: the full version, up to 1000 positions. Effective ranks are medians over blocks off the diagonal,
from 16 probes. Exponents of textgenrnn are those of its LSTMs run on beyond the 40 characters that it reads.
A network whose archive is not in the cache is skipped, and the study says so (``depprobe models fetch``); the
twin of g2p needs none.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import xarray as xr
from _study import attributes, finished, main, report
from _trained_twins import CASES, WEIGHTS, Case
from _weights_look import LOOK, add_weights_legend
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.ticker import NullFormatter
from numpy.typing import NDArray

import depprobe
from depprobe.figures.drawing.log_axis import LN10, use_decades
from depprobe.figures.drawing.style import GREY, PAGE, SMALL, styled
from depprobe.vocabulary import describe

Floats = NDArray[np.float64]
#: lags of the curves
LAGS = np.arange(-60, 61)
#: probes of a block for its effective rank
PROBES = 16
#: quantiles of the time constants of units
QUANTILES = (0.25, 0.5, 0.75)
GATES = ("r", "z", "n", "i", "f", "g", "o")
#: the recurrence and the gate whose eigenvalues are kept
CLOUD, WIDTH = ("g2p encoder", "n"), 256
#: (trained recurrence, variable) -> largest value of an earlier run
KNOWN = {
    ("g2p encoder", "spectral_radius"): 4.464,
    ("textgenrnn 1", "spectral_radius"): 30.84,
    ("silero-vad", "spectral_radius"): 5.47,
}
#: nats a step within which first exponents of trained recurrences lie from zero
EDGE = 0.05
#: variable -> its dimensions after (model or recurrence, weights), its sizes there, and what it is
VARIABLES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "log_ratio": (("lag",), {"long_name": "ln of the rms norm over that at lag 0", "units": "ln 1"}),
    "effective_rank": ((), describe("effective_rank")),
    "first_exponent": ((), describe("exponent")),
    "time_constant": (("share",), describe("time_constant")),
    "spectral_radius": (("gate",), describe("spectral_radius")),
    "eigenvalue": (("mode", "part"), describe("eigenvalue")),
}
COORDS: dict[str, Any] = {"lag": LAGS, "share": list(QUANTILES), "gate": list(GATES)}
COORDS |= {"mode": np.arange(WIDTH), "part": ["real", "imag"]}


def compute(quick: bool) -> xr.Dataset:
    """Curves and ranks over (model, weights), what recurrences do over (recurrence, weights)."""
    cases = [case for case in CASES if not quick or case.quick]
    found: dict[str, dict[tuple[str, str], dict[str, Any]]] = {"model": {}, "recurrence": {}, "state": {}}
    for done, case in enumerate(cases):
        if case.factory is None:
            print(f"skipped: {case.reason}", file=sys.stderr)
        for weights in WEIGHTS:
            report(2 * done + WEIGHTS.index(weights), 2 * len(cases), f"{case.name}, {weights}")
            net = case.module(weights)
            if net is not None:
                found["model"][case.name, weights] = reach(case, net, quick)
                for label, rnn, x in case.running(net, case.factory, quick) if case.running else []:
                    exponent = depprobe.lyapunov(rnn, x, exponents=1, finished=finished())["exponent"][0]
                    found["state"][label, weights] = {"first_exponent": exponent}
                    layers = inner(label, rnn, x)
                    found["recurrence"] |= {(name, weights): one for name, one in layers.items()}
    ds = xr.merge([_table(dim, rows) for dim, rows in found.items()])
    about = {"model": "network", "weights": "weights", "share": "quantile"}
    about |= {"recurrence": "recurrent layer", "state": "state, of all layers of a stack"}
    for name, words in about.items():
        ds[name].attrs = {"long_name": words, "units": "1"}
    for name in ("lag", "gate", "mode", "part"):
        ds[name].attrs = describe(name)
    ds.attrs = attributes(
        __file__, quick, "Trained networks beside their untrained twins", ds["model"].values, dtype="float32"
    )
    return ds


def _table(dim: str, rows: dict[tuple[str, str], dict[str, Any]]) -> xr.Dataset:
    """Rows by (name, weights) as variables over (dim, weights), NaN where there is none."""
    names = list(dict.fromkeys(name for name, _ in rows))
    variables = {}
    for key in next(iter(rows.values())):
        along, about = VARIABLES[key]
        shape = [len(COORDS[one]) for one in along]
        values = np.full([len(names), len(WEIGHTS), *shape], np.nan)
        for (name, weights), row in rows.items():
            values[names.index(name), WEIGHTS.index(weights)] = row[key]
        variables[key] = ((dim, "weights", *along), values, about)
    dims = {one for key in variables for one in VARIABLES[key][0]}
    return xr.Dataset(variables, {dim: names, "weights": list(WEIGHTS)} | {one: COORDS[one] for one in dims})


def reach(case: Case, net: Any, quick: bool) -> dict[str, Any]:
    """Rms norms by lag over that at lag 0, and the median effective rank of blocks off the diagonal."""
    module, x = case.on(net, case.given(case.factory, quick))
    kept = {"finished": finished()}
    curve = depprobe.decay_curve(depprobe.jacobian(module, x, **case.measured, **kept))["log_rms"]
    ranks = depprobe.jacobian(module, x, targets=case.ranked, method="probes", probes=PROBES, **kept)
    known = np.isfinite(ranks["log_norm"]) & (ranks["position"] != ranks["source"])
    return {
        "log_ratio": (curve - curve.sel(lag=0)).reindex(lag=LAGS).values,
        "effective_rank": float(ranks["effective_rank"].where(known).median()),
    }


def inner(label: str, rnn: Any, x: Any) -> dict[str, dict[str, Any]]:
    """Spectra and time constants of a recurrence, layer by layer."""
    found = {}
    weights = depprobe.spectrum(rnn, grid=0)
    for depth in range(rnn.num_layers):
        gates = depprobe.gates(rnn, x, depth=depth)
        name = f"{label} {depth + 1}" if rnn.num_layers > 1 else label
        radii, cloud = np.full(len(GATES), np.nan), np.full((WIDTH, 2), np.nan)
        for gate in gates["gate"].values:
            of_gate = weights.sel(weight=f"weight_hh_l{depth}[{gate}]")
            radii[GATES.index(gate)] = of_gate["spectral_radius"]
            if (name, gate) == CLOUD:
                cloud = of_gate["eigenvalue"].values
        found[name] = {
            "time_constant": gates["time_constant"].quantile(QUANTILES).values,
            "spectral_radius": radii,
            "eigenvalue": cloud,
        }
    return found


def checks(ds: xr.Dataset) -> list[str]:
    """Twins have what theory says of weights as drawn; trained networks what they had before."""
    faults = []
    # uniform entries within 1/sqrt d have the circular law's radius 1/sqrt 3; edges fluctuate
    drawn = ds["spectral_radius"].sel(weights="untrained")
    if float(abs(drawn - 1 / math.sqrt(3)).max()) > 0.12:
        faults.append("spectral radii of drawn weights are not about 0.58")
    # arguments of gates are small: sigma(z) near 1/2, whatever the input
    halves = ds["time_constant"].sel(weights="untrained", share=0.5)
    if float(abs(halves - 1 / math.log(2)).max()) > 0.2:
        faults.append("time constants of drawn weights are not about 1.44")
    for (name, variable), known in KNOWN.items():
        if name not in ds["recurrence"]:
            continue
        got = float(ds[variable].sel(recurrence=name, weights="trained").max())
        if not math.isnan(got) and abs(got - known) > 0.05 * known:
            faults.append(f"{variable} of {name} is {got:.4g}, not {known:.4g}")
    trained, drawn = (ds.sel(weights=weights) for weights in WEIGHTS)
    off = ds["state"][(abs(trained["first_exponent"]) > EDGE).values]
    many = ds["model"][(trained["effective_rank"] >= drawn["effective_rank"]).values]
    faults += [f"the first exponent of {name} is not about 0" for name in off.values]
    faults += [f"training of {name} did not lower the effective rank" for name in many.values]
    return faults


def summary(ds: xr.Dataset) -> dict[str, float]:
    """Of the twin that needs no archive; what others give is for ``checks``."""
    twin = ds.sel(weights="untrained")
    net, encoder = twin.sel(model="g2p"), twin.sel(recurrence=CLOUD[0], state=CLOUD[0])
    return {
        "g2p untrained: ln norm at lag 9 over lag 0": float(net["log_ratio"].sel(lag=9)),
        "g2p untrained: first exponent": float(encoder["first_exponent"]),
        "g2p untrained: median time constant": float(encoder["time_constant"].sel(share=0.5)),
        "g2p untrained: spectral radius of gate n": float(encoder["spectral_radius"].sel(gate="n")),
    }


def plot(ds: xr.Dataset) -> Figure:
    """Decay curves of every network; then ranks, spectra, time constants and exponents."""
    names = [str(name) for name in ds["model"].values]
    rows = math.ceil(len(names) / 4)
    with styled():
        figure = Figure(figsize=(PAGE, 1.75 * rows + 4.4), layout="constrained")
        curves, inside = figure.subfigures(2, 1, height_ratios=(1.75 * rows, 4.2))
        for index, name in enumerate(names):
            _draw_curve(curves.add_subplot(rows, 4, index + 1), ds.sel(model=name), name)
        curves.supxlabel("lag $t - k$ (positions)", fontsize=8)
        curves.supylabel("rms norm over that at lag 0", fontsize=8)
        (ranks, cloud), (held, exponents) = inside.subplots(2, 2)
        _draw_ranks(ranks, ds)
        _draw_cloud(cloud, ds)
        _draw_times(held, ds)
        _draw_exponents(exponents, ds)
        add_weights_legend(figure, "marker")
    return figure


def _draw_curve(ax: Axes, row: xr.Dataset, name: str) -> None:
    for weights, look in LOOK.items():
        values = row["log_ratio"].sel(weights=weights).values / LN10
        seen = np.isfinite(values)
        ax.plot(LAGS[seen], values[seen], color=look.colour, linewidth=1, linestyle=look.line)
    use_decades(ax.yaxis)
    ax.set_title(name, loc="left")


def _draw_ranks(ax: Axes, ds: xr.Dataset) -> None:
    _draw_pairs(ax, ds["effective_rank"], "model")
    _spread(ax, 1, 300)
    ax.set_xlabel("effective rank of blocks off the diagonal")


def _draw_times(ax: Axes, ds: xr.Dataset) -> None:
    _draw_pairs(ax, ds["time_constant"], "recurrence")
    _spread(ax, 0.1, 300)
    ax.set_xlabel("time constant of the carrying gate (positions)")
    ax.set_title("median and quartiles of the units", loc="left")


def _draw_exponents(ax: Axes, ds: xr.Dataset) -> None:
    _draw_pairs(ax, ds["first_exponent"], "state")
    ax.axvline(0, color=GREY, linewidth=0.6, zorder=0.5)
    ax.set_xlabel("first Lyapunov exponent (nats per step)")


def _spread(ax: Axes, low: float, high: float) -> None:
    """A logarithmic axis with labels at powers of ten alone."""
    ax.set_xscale("log")
    ax.set_xlim(low, high)
    ax.xaxis.set_minor_formatter(NullFormatter())


def _draw_pairs(ax: Axes, values: xr.DataArray, dim: str) -> None:
    """One line for each name, trained and untrained on it; bars between quartiles, where values have them."""
    names = [str(name) for name in values[dim].values]
    for weights, (colour, marker, _) in LOOK.items():
        at = np.arange(len(names)) + (0.12 if weights == "untrained" else -0.12)
        here = values.sel(weights=weights)
        middle, bars = here, None
        if "share" in here.dims:
            low, middle, high = (here.sel(share=share) for share in QUANTILES)
            bars = [middle - low, high - middle]
        ax.errorbar(middle, at, xerr=bars, fmt=marker, color=colour, linewidth=0.8)
    ax.set_yticks(range(len(names)), names, fontsize=SMALL)
    ax.set_ylim(len(names) - 0.5, -0.5)


def _draw_cloud(ax: Axes, ds: xr.Dataset) -> None:
    for weights, (colour, marker, _) in LOOK.items():
        values = ds["eigenvalue"].sel(recurrence=CLOUD[0], weights=weights)
        real, imag = (values.sel(part=part).values for part in ("real", "imag"))
        ax.plot(real, imag, marker, color=colour, markersize=2, alpha=0.6)
    ax.add_patch(Circle((0, 0), 1, fill=False, color=GREY, linewidth=0.6))
    ax.set_aspect("equal", "datalim")
    ax.set_xlabel("real part")
    ax.set_ylabel("imaginary part")
    ax.set_title(f"eigenvalues: {CLOUD[0]}, gate {CLOUD[1]}", loc="left")


if __name__ == "__main__":
    main(compute, plot, summary, __file__, checks=checks, tolerance=0.02)
