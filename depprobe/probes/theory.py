r"""What theory predicts for a layer: curves over the lag beside the measured one.

    rnn (tanh)      ln rho(W) lag,  ln sigma_max(W) lag (a bound),  ln(chi) lag / 2 (mean field)
    rnn (relu)      ln rho(W) lag,  ln sigma_max(W) lag
    lstm, gru       ln(E sigma^2) lag / 2, the path past the weights alone
    convolutions    Gaussian with the moments of the expected squared profile

Gains are sd(W) sqrt(d); variances of bias and input are those of W_ih x + b over units and positions.
Sources: the files of ``depprobe.theory``.
"""

from __future__ import annotations

import math
from functools import singledispatch
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn

from depprobe.core.calling.weights_in_effect import recurrence_in_effect
from depprobe.errors import BadInput
from depprobe.layers.convolution import Convolution
from depprobe.layers.dilated_convolution import ConvolutionBlock
from depprobe.runs.cases import cases_of
from depprobe.runs.labelling import described
from depprobe.runs.subject import Request
from depprobe.theory.eigenvalue import eigenvalue_rate
from depprobe.theory.gated import Gate, gru_update, lstm_forget
from depprobe.theory.meanfield import mean_field
from depprobe.theory.receptive import Level, log_gaussian_profile, moments
from depprobe.theory.singular_bound import bound_rate

Floats = NDArray[np.float64]


class Prediction(NamedTuple):
    """A curve: ``log`` (lags,) natural logs, its ``rate`` (NaN if not straight), whether ``absolute``.

    ``width`` is the standard deviation of the lag, weighed by squared norms, where the curve is a bump.
    """

    log: Floats
    rate: float
    absolute: bool
    width: float = math.nan


@singledispatch
def predictions(module: nn.Module, x: Tensor, lags: Floats) -> dict[str, Prediction]:
    """What applies to a module at x (n, d_in), by name; nothing for modules without a theory."""
    return {}


@predictions.register
def _(module: nn.RNNBase, x: Tensor, lags: Floats) -> dict[str, Prediction]:
    if module.num_layers > 1 or module.bidirectional or module.proj_size:
        return {}
    if isinstance(module, nn.LSTM):
        factor, _h2 = lstm_forget(*_gates(module, x, 4))
        return {"forget path": _line(0.5 * math.log(factor), 0.0, lags, False)}
    if isinstance(module, nn.GRU):
        factor, _h2 = gru_update(*_gates(module, x, 3))
        return {"update path": _line(0.5 * math.log(factor), 0.0, lags, False)}
    W, V, drive = _weights(module, x)
    size = math.log(float(np.linalg.norm(V)))
    rho, sigma = eigenvalue_rate(W), bound_rate(W)
    found = {"eigenvalue": _line(rho, 0.0, lags, False), "bound": _line(sigma, size, lags, True)}
    if module.nonlinearity == "tanh":
        gain, sb = float(W.std() * math.sqrt(len(W))), math.sqrt(float((drive**2).mean()))
        field = mean_field(gain, sb)
        # the input enters by W_ih through one more slope than there are steps
        found["mean field"] = _line(field.exponent, size + 0.5 * math.log(field.slope), lags, True)
    return found


@predictions.register(nn.Sequential)
@predictions.register(Convolution)
@predictions.register(ConvolutionBlock)
def _(module: nn.Module, x: Tensor, lags: Floats) -> dict[str, Prediction]:
    blocks = list(module) if isinstance(module, nn.Sequential) else [module]
    levels = [_level(block) for block in blocks]
    known = [level for level in levels if level is not None]
    if not known or len(known) < len(levels):
        return {}
    # a row block starts from the identity on d_in inputs
    log = 0.5 * (math.log(x.shape[1]) + log_gaussian_profile(known, lags))
    return {"receptive field": Prediction(log, math.nan, True, math.sqrt(moments(known)[2]))}


def theory(
    module: Any,
    x: Any = None,
    *,
    n: int | None = None,
    d: int | None = None,
    seed: int = 0,
) -> xr.Dataset:
    """What theory predicts for ||dh_t/dx_k||_F, for the layers to which any applies.

    Parameters are those of ``depprobe.jacobian``. Raises ``BadInput`` where no theory applies to any layer.

    Returns
    -------
    Dataset with ``log_theory(layer, theory, lag)``, natural logs, NaN where a theory does not apply to a
    layer; ``predicted_rate(layer, theory)`` (nats a position), NaN where the curve is not exponential;
    ``predicted_width(layer, theory)`` (positions), NaN where it is. The
    coordinate ``constant`` on ``theory`` says whether theory gives the height too (``absolute``), or only
    the slope, the curve being 0 at lag 0 (``first lag``: a figure moves it to the first measured lag).

    Examples
    --------
    >>> ds = theory("rnn", n=30, d=16)
    >>> ds["theory"].values.tolist(), bool((ds.predicted_rate < 0.3).all())
    (['eigenvalue', 'bound', 'mean field'], True)
    """
    measured = cases_of(module, x, Request(n=n, d=d, seed=seed))
    labels, cases = measured.labels, measured.cases[:: measured.samples]
    lags = np.arange(cases[0].x.shape[0], dtype=np.float64)
    built = {case.label: case.build() for case in cases}
    modules = {label: recurrence_in_effect(module) or module for label, module in built.items()}
    found = {case.label: predictions(modules[case.label], case.x, lags) for case in cases}
    found = {label: curves for label, curves in found.items() if curves}
    width = cases[0].x.shape[1] if measured.own_width else Request(d=d).of("d")
    if not found:
        raise BadInput(
            f"no theory applies to {', '.join(labels)}; it does to rnn, gru and lstm with one layer and "
            "direction, and to convolutions with stride 1"
        )
    names = list(dict.fromkeys(name for curves in found.values() for name in curves))
    log = np.full((len(found), len(names), len(lags)), np.nan)
    rate, spread = np.full((2, *log.shape[:2]), np.nan)
    absolute = dict.fromkeys(names, False)
    for i, curves in enumerate(found.values()):
        for name, one in curves.items():
            place = i, names.index(name)
            log[place], rate[place], spread[place] = one.log, one.rate, one.width
            absolute[name] = one.absolute
    heights = ["absolute" if absolute[name] else "first lag" for name in names]
    pair = ("layer", "theory")
    return described(
        xr.Dataset(
            {
                "log_theory": ((*pair, "lag"), log),
                "predicted_rate": (pair, rate),
                "predicted_width": (pair, spread),
            },
            coords={"layer": list(found), "theory": names, "constant": ("theory", heights), "lag": lags},
            attrs={"title": f"Theory of {', '.join(found)}", "n": len(lags), "d": width, "seed": seed},
        )
    )


def _line(rate: float, start: float, lags: Floats, absolute: bool) -> Prediction:
    return Prediction(start + rate * lags, rate, absolute)


def _weights(module: nn.RNNBase, x: Tensor) -> tuple[Floats, Floats, Floats]:
    """W_hh, W_ih, and bias with input part of every gate's argument (n, gates d)."""
    parts = {name: p.detach().cpu().double().numpy() for name, p in module.named_parameters()}
    drive = x.detach().cpu().double().numpy() @ parts["weight_ih_l0"].T
    drive = drive + parts.get("bias_ih_l0", 0.0) + parts.get("bias_hh_l0", 0.0)
    return parts["weight_hh_l0"], parts["weight_ih_l0"], drive


def _gates(module: nn.RNNBase, x: Tensor, count: int) -> list[Gate]:
    W, _, drive = _weights(module, x)
    parts = zip(np.split(W, count), np.split(drive, count, axis=1), strict=True)
    return [Gate(float(u.mean()), float(u.std()), float(w.std() * math.sqrt(w.shape[1]))) for w, u in parts]


def _level(block: nn.Module) -> Level | None:
    """Mean-square gain and taps of a block; None where the slope of its nonlinearity has no fixed mean."""
    inner = block.convolution if isinstance(block, ConvolutionBlock) else block
    slope, residual = 1.0, False
    if isinstance(block, ConvolutionBlock):
        if not isinstance(block.nonlinearity, nn.ReLU | nn.Identity):
            return None
        # half of the units of a symmetric argument are open
        slope = 0.5 if isinstance(block.nonlinearity, nn.ReLU) else 1.0
        residual = block.shortcut is not None
        if residual and not isinstance(block.shortcut, nn.Identity):
            return None
    if not isinstance(inner, Convolution) or inner.conv.stride[0] != 1:
        return None
    conv = inner.conv
    kernel, dilation = conv.kernel_size[0], conv.dilation[0]
    gain = slope * float((conv.weight.detach().double() ** 2).sum()) / conv.in_channels
    return Level(kernel, dilation, inner.pad[0] - dilation * (kernel - 1), gain, residual)
