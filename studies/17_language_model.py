"""Which law do a language model's gradients follow, at which depth, and does attention show it?

A causal Transformer of characters (4 blocks, d = 64, rotary positions), trained here for 500 steps on
Python's own documentation, beside itself before training: norms of the last block's output with respect to
the input of every block, on text held out. Published for larger models (arXiv 2606.29139): median norms over
that at lag 0 follow gamma + beta (r + 1)^-p with p = 0.7 to 0.9, and do not at initialisation.

Answer: training makes a near past and a floor, but the fall is no slow power law: from 0.49 at one character
to 0.016 at 30 and about 0.012 from there on, for which an exponential with floor fits better (BIC -193) than
a power law with floor (-163; p would be 2.0).

Before training nothing falls: medians rise from 0.022 at lag 1 to 0.029 at lag 128, where sources are early
and more positions average over them. By depth, the floor comes from the first block: beyond lag 64 medians
are 0.012 from its input, 0.0016, 0.0010 and 0.0003 from those of the next three, the last of which decays as
a power law without floor, p = 1.3. The first character is no sink: blocks 2 to 4 attend to it 0.12 to 0.23
times as much as even attention would, and its norm is 1.1 times that of the seven behind it (1.6 before
training). Attention rollout shows well which positions matter: ln rollout, with half the weight on the
residual path, correlates with ln norm by 0.87 over pairs t > k and by 0.90 at equal lags (0.76 and 0.83
before training). The law of drawn weights, uniform attention through all subsets of branches, gives ln norms
to 0.05 in the median, and 0.26 too much at the first characters.

Numbers: the full version, 256 characters in 6 windows; lags to 128, which all targets have; 8 probes. They
are those of one small model and say nothing of large ones.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from _character_model import CharacterModel, loss, train, windows
from _past_laws import floor_of, law, misses
from _study import attributes, finished, main, report
from _weights_look import LOOK, add_weights_legend
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

import depprobe
from depprobe.figures.drawing.log_axis import LN10, use_decades
from depprobe.figures.drawing.style import COLOURS, PAGE, styled
from depprobe.vocabulary import describe

Floats = NDArray[np.float64]
WEIGHTS = ("trained", "untrained")
#: share of the residual path in a step of the rollout
RESIDUAL = 0.5


class Size(NamedTuple):
    """Of one version of the study: the model, its training, and what is measured."""

    n: int
    blocks: int
    steps: int
    windows: int
    targets: int
    probes: int
    draws: int


FULL, QUICK = Size(256, 4, 500, 6, 12, 8, 32), Size(64, 2, 60, 2, 8, 16, 16)


def compute(quick: bool) -> xr.Dataset:
    """Norms over (layer, depth, sample, target, source), rollouts, and the law of drawn weights."""
    size = QUICK if quick else FULL
    total = size.steps + 2 * size.blocks + size.draws
    nets = {name: CharacterModel(size.blocks).eval() for name in WEIGHTS}
    train(nets["trained"], size.n, size.steps, lambda step: report(step, total, "training"))
    ids = windows(size.n, size.windows)
    report(size.steps, total, "Jacobians at every depth")
    targets = np.linspace(size.n // 2, size.n - 1, size.targets, dtype=int).tolist()
    ds = depprobe.jacobian(
        nets,
        ids,
        of=f"stream.{size.blocks}",
        wrt="stream.*",
        targets=targets,
        method="probes",
        probes=size.probes,
    )[["log_norm"]]
    ds = ds.isel(depth=slice(size.blocks)).transpose("layer", "depth", "sample", "target", "source")
    found = [_inside(net, ids, targets) for net in nets.values()]
    lead = {"log_rollout": ("layer", "sample", "target", "source"), "first_attention": ("layer", "depth")}
    lead |= {"first_size": ("layer", "depth"), "cross_entropy": ("layer",)}
    for name, dims in lead.items():
        ds[name] = (dims, np.stack([one[name] for one in found]), ABOUT[name])
    report(size.steps + 2 * size.blocks, total, "draws of the weights")
    # of uniform weights over the positions that each target sees
    ds["even_attention"] = ((), float(np.mean([1 / (t + 1) for t in targets])), ABOUT["even_attention"])
    for name, values in _at_first(size).items():
        ds[name] = ("source", values, ABOUT[name])
    ds.attrs = attributes(
        __file__,
        quick,
        "A language model of characters, trained and as drawn",
        WEIGHTS,
        n=size.n,
        dtype="float32",
    )
    return ds


ABOUT: dict[str, dict[str, str]] = {
    "log_rollout": {"long_name": "ln of the attention rollout", "units": "ln 1"},
    "first_attention": {"long_name": "mean attention to the first position", "units": "1"},
    "even_attention": {"long_name": "the same of uniform weights", "units": "1"},
    "first_size": {"long_name": "norm of the first state over the median of all", "units": "1"},
    "cross_entropy": {"long_name": "cross-entropy of the next character", "units": "nats"},
    "log_drawn": {"long_name": "ln rms norm over draws of the weights", "units": "ln 1"},
    "log_law": describe("log_theory"),
}


@torch.no_grad()
def _inside(net: CharacterModel, ids: torch.Tensor, targets: list[int]) -> dict[str, Any]:
    """Attention rollout, attention to the first position, size of its state, and the loss."""
    states = net.states(ids)
    rollout = torch.eye(ids.shape[1], dtype=torch.float64)
    first, sizes = [], []
    for block, h in zip(net.stream[1:], states, strict=False):
        weights = block.attention(h).double()
        first.append(float(weights[:, targets, 0].mean()))
        sizes.append(float((h[:, 0].norm(dim=-1) / h.norm(dim=-1).median(1).values).mean()))
        rollout = (1 - RESIDUAL) * weights @ rollout + RESIDUAL * rollout
    return {
        "log_rollout": rollout[:, targets].log().numpy(),
        "first_attention": first,
        "first_size": sizes,
        "cross_entropy": float(loss(net, ids)),
    }


def _at_first(size: Size) -> dict[str, Floats]:
    """Rms norms at the last target over draws of the weights, and what the law says of them."""

    # printable characters in turn: what is untrained does not care for the text
    ids = 32 + torch.arange(size.n)[None] % 95

    def draw(seed: int) -> CharacterModel:
        return CharacterModel(size.blocks, seed).eval()

    how: dict[str, Any] = {"of": f"stream.{size.blocks}", "wrt": "stream.0", "targets": "last"}
    how |= {"method": "probes", "probes": size.probes, "seeds": size.draws, "finished": finished()}
    squares = 2 * depprobe.jacobian(draw, ids[0], **how)["log_norm"].squeeze("target")
    inverse = np.mean([_inverse_deviations(draw(seed), ids) for seed in range(size.draws)], 0)
    drawn = 0.5 * np.log(np.exp(squares).mean("seed"))
    return {"log_drawn": drawn.values, "log_law": law(np.sqrt(inverse))}


@torch.no_grad()
def _inverse_deviations(net: CharacterModel, ids: torch.Tensor) -> Floats:
    """1 / variance of what the norms of each branch read, (2 blocks, n)."""
    found = []
    for block, h in zip(net.stream[1:], net.states(ids), strict=False):
        between = h + block.read(h)
        found += [1 / h[0].var(-1, correction=0), 1 / between[0].var(-1, correction=0)]
    return torch.stack(found).double().numpy()


def near(ds: xr.Dataset) -> xr.Dataset:
    """Norms at lags to n / 2, which every target has."""
    return ds[["log_norm"]].where(ds["lag"] <= ds.attrs["n"] // 2).assign_attrs(ds.attrs)


def curve(one: xr.Dataset) -> tuple[Floats, Floats]:
    """Lags from 1 and ln of the median norm over that at lag 0, without the first position."""
    found = depprobe.decay_curve(near(one), skip_first=1, normalise="diagonal")["log_median"]
    found = found.sel(lag=slice(1, one.attrs["n"] // 2))
    return found["lag"].values.astype(np.float64), found.values


def first_excess(one: xr.Dataset) -> float:
    """ln of the first position's median norm over that of the seven behind it."""
    log_norm = one["log_norm"]
    return float(log_norm.sel(source=0).median() - log_norm.sel(source=slice(1, 7)).median())


def correlations(one: xr.Dataset) -> tuple[float, float]:
    """Of ln norm and ln rollout over pairs t > k: as they are, and less the mean of their lag."""
    pairs = one[["log_norm", "log_rollout"]].isel(depth=0).where(one["lag"] > 0)
    apart = pairs - pairs.groupby("lag").mean(...)

    def of(both: xr.Dataset) -> float:
        return float(xr.corr(both["log_norm"], both["log_rollout"]))

    return of(pairs), of(apart)


def checks(ds: xr.Dataset) -> list[str]:
    """The law of drawn weights, and that training lowered the loss."""
    faults = misses()
    trained, drawn = (float(one) for one in ds["cross_entropy"])
    if not trained < drawn - 1:
        faults.append(f"training lowered the loss from {drawn:.3f} to {trained:.3f} alone")
    apart = float(abs(ds["log_law"] - ds["log_drawn"]).median())
    if apart > 0.1:
        faults.append(f"norms of drawn weights are {apart:.3f} nats from the law in the median")
    return faults


def summary(ds: xr.Dataset) -> dict[str, float]:
    """Of weights as drawn; what is trained differs with processors, and its text with Python."""
    return {
        "law: ln norm, first position": float(ds["log_law"].sel(source=0)),
        "law: ln norm, one before the last": float(ds["log_law"].sel(source=ds.attrs["n"] - 2)),
        "untrained: mean ln norm over sources": float(ds["log_drawn"].mean()),
        "untrained: cross-entropy": float(ds["cross_entropy"].sel(layer="untrained")),
    }


def plot(ds: xr.Dataset) -> Figure:
    """Curves and their law, by depth, the first positions, the law of drawn weights, rollout beside norms."""
    with styled():
        figure = Figure(figsize=(PAGE, 4.6), layout="constrained")
        (form, depth, ranks), (first, drawn, rollout) = figure.subplots(2, 3)
        _draw_form(form, ds)
        _draw_depths(depth, ds)
        _draw_attention(ranks, ds)
        _draw_first(first, ds)
        _draw_law(drawn, ds)
        _draw_rollout(rollout, ds)
        add_weights_legend(figure, "line")
    return figure


def _draw_form(ax: Axes, ds: xr.Dataset) -> None:
    for weights, (colour, _, line) in LOOK.items():
        lag, y = curve(ds.sel(layer=weights, depth=0))
        ax.plot(lag, y / LN10, ".", color=colour, markersize=2)
        found = floor_of(lag, y)
        law = found.gamma + found.beta * (lag + 1) ** -found.p
        ax.plot(lag, np.log10(law), color=colour, linewidth=1, linestyle=line)
    ax.set_xscale("log")
    _labelled(ax, r"$\gamma + \beta (r + 1)^{-p}$ fitted", "lag $r$ (characters)", "median norm over lag 0")


def _draw_depths(ax: Axes, ds: xr.Dataset) -> None:
    for depth in ds["depth"].values:
        lag, y = curve(ds.sel(layer="trained", depth=depth))
        ax.plot(lag, y / LN10, color=COLOURS[depth], linewidth=0.8, label=f"block {depth + 1}")
    ax.set_xscale("log")
    ax.legend(loc="lower left", handlelength=1)
    _labelled(ax, "trained, from the input of a block", "lag $r$ (characters)", "median norm over lag 0")


def _draw_attention(ax: Axes, ds: xr.Dataset) -> None:
    for weights, (colour, _, line) in LOOK.items():
        share = ds["first_attention"].sel(layer=weights).values / ds["even_attention"].item()
        ax.plot(ds["depth"].values + 1, share, linestyle=line, color=colour, marker="o")
    ax.set_xticks(ds["depth"].values + 1)
    ax.set_ylim(0)
    ax.set_title("attention to the first character", loc="left")
    ax.set(xlabel="block", ylabel="mean weight over even")


def _draw_first(ax: Axes, ds: xr.Dataset) -> None:
    for weights, (colour, _, line) in LOOK.items():
        log_norm = ds["log_norm"].sel(layer=weights, depth=0).sel(source=slice(0, 31))
        y = log_norm.median(["sample", "target"]).values / LN10
        ax.plot(np.arange(len(y)), y, linestyle=line, color=colour, marker=".")
    _labelled(ax, "the first characters", "source $k$", "median norm")


def _draw_law(ax: Axes, ds: xr.Dataset) -> None:
    source = ds["source"].values
    ax.plot(source, ds["log_drawn"].values / LN10, ".", color=COLOURS[1], markersize=2, label="measured")
    ax.plot(source, ds["log_law"].values / LN10, color="black", linewidth=0.8, label="law")
    ax.legend(loc="upper center")
    _labelled(ax, "untrained, to the last character", "source $k$", "rms norm")


def _draw_rollout(ax: Axes, ds: xr.Dataset) -> None:
    for weights, (colour, *_) in reversed(LOOK.items()):
        one = ds.sel(layer=weights, depth=0).stack(pair=("sample", "target", "source"))
        one = one.isel(pair=(one["lag"] > 0).values)
        x, y = (one[name].values / LN10 for name in ("log_rollout", "log_norm"))
        ax.plot(x, y, ".", color=colour, markersize=1, alpha=0.3, rasterized=True)
    use_decades(ax.xaxis)
    _labelled(ax, "rollout, pairs $t > k$", "attention rollout", "norm")


def _labelled(ax: Axes, title: str, x: str, y: str) -> None:
    use_decades(ax.yaxis)
    ax.set_title(title, loc="left")
    ax.set(xlabel=x, ylabel=y)


if __name__ == "__main__":
    main(compute, plot, summary, __file__, checks=checks, tolerance=0.05)
