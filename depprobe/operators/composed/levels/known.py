r"""From a module to the levels of its stack.

``levels`` is open: ``levels.register(MyBlock)`` on a function (module, x, memory) -> Stack, or None for an
instance that it does not serve, teaches the composed operator another block.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch

import torch
from torch import Tensor, nn

from depprobe.core.calling.known import is_plain, natural_layout
from depprobe.core.options import Options
from depprobe.layers.convolution import Convolution
from depprobe.layers.dilated_convolution import ConvolutionBlock
from depprobe.layers.residual import Added
from depprobe.operators.chain.operator import RecurrentJacobian
from depprobe.operators.composed.levels.convolution import Conv
from depprobe.operators.composed.levels.level import Level, Residual
from depprobe.operators.composed.levels.own_operator import Mixing, Recurrence
from depprobe.operators.composed.levels.per_position import EachPosition, Elementwise, Matrix
from depprobe.operators.convolution.taps import Taps, require_width
from depprobe.operators.dispatch import registered_jacobian

#: slopes of these are zero only where they are cut off, never by underflow
_PIECEWISE = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Hardtanh),
    *(nn.Threshold, nn.Hardshrink, nn.Softshrink, nn.Hardsigmoid),
)
_SMOOTH = (
    *(nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.ELU, nn.SELU, nn.CELU),
    *(nn.Mish, nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Tanhshrink, nn.Hardswish),
)
_IDENTITY = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.AlphaDropout, nn.FeatureAlphaDropout)


class Stack:
    """Levels, bottom first, and the topmost's output (n_out, d_out), which a function may make when asked."""

    def __init__(
        self, levels: list[Level], output: Tensor | Callable[[], Tensor], shape: tuple[int, ...] = ()
    ) -> None:
        self.levels, self._output = levels, output
        self.shape = tuple(output.shape) if isinstance(output, Tensor) else shape

    @property
    def output(self) -> Tensor:
        """Made once."""
        if not isinstance(self._output, Tensor):
            with torch.no_grad():
                self._output = self._output()
        return self._output


@singledispatch
def levels(module: nn.Module, x: Tensor, memory: int) -> Stack | None:
    """The levels of a module at x (n, d_in), or None if it holds a layer that is not known.

    Known are stacks and residual blocks of layers with an operator of their own, and layers that act on
    each position by itself.
    """
    jacobian = registered_jacobian(module, x, Options(memory=memory, tolerance=0.0))
    if jacobian is None:
        return None
    level: Level = Mixing(jacobian, lambda z: call_known(module, z), x, memory)
    if isinstance(jacobian, RecurrentJacobian) and isinstance(module, nn.RNNBase):
        level = Recurrence(jacobian, module.bidirectional)
    return Stack([level], lambda: call_known(module, x), jacobian.shape[:2])


@levels.register
def _(module: nn.Sequential, x: Tensor, memory: int) -> Stack | None:
    if not (is_plain(module, nn.Sequential) and _is_faithful(module)):
        return None
    found, top = list[Level](), Stack([], x)
    for child in module:
        above = levels(child, top.output, memory)
        if above is None:
            return None
        found, top = found + above.levels, above
    return Stack(found, lambda: top.output, top.shape)


@levels.register
def _(module: ConvolutionBlock, x: Tensor, memory: int) -> Stack | None:
    if not is_plain(module, ConvolutionBlock):
        return None
    inner = levels(module.convolution, x, memory)
    above = levels(module.nonlinearity, inner.output, memory) if inner else None
    if inner is None or above is None:
        return None
    branch = inner.levels + above.levels
    if module.shortcut is None:
        return Stack(branch, above.output)
    direct = levels(module.shortcut, x, memory)
    if direct is None or direct.output.shape != above.output.shape:
        return None
    return Stack([Residual(branch, direct.levels, x.shape[1])], above.output + direct.output)


@levels.register
def _(module: Added, x: Tensor, memory: int) -> Stack | None:
    inner = levels(module.inner, x, memory) if is_plain(module, Added) else None
    if inner is None or inner.output.shape != x.shape:
        return None
    return Stack([Residual(inner.levels, [], x.shape[1])], x + inner.output)


@levels.register(nn.Conv1d)
@levels.register(Convolution)
def _(module: nn.Module, x: Tensor, memory: int) -> Stack | None:
    taps = Taps.of(module, x.shape[0])
    if taps is None:
        return None
    conv = module.conv if isinstance(module, Convolution) else module
    assert isinstance(conv, nn.Conv1d)
    require_width(x, conv.in_channels, "convolution")
    with torch.no_grad():
        return Stack([Conv(conv, taps)], call_known(module, x))


@levels.register
def _(module: nn.Linear, x: Tensor, memory: int) -> Stack | None:
    if not is_plain(module, nn.Linear):
        return None
    require_width(x, module.in_features, "linear layer")
    with torch.no_grad():
        return Stack([Matrix(module.weight.detach())], module(x))


def _identity(module: nn.Module, x: Tensor, memory: int) -> Stack | None:
    drops = module.training and getattr(module, "p", 0.0) > 0
    return None if drops or not _is_own(module, _IDENTITY) else Stack([], x)


def _elementwise(module: nn.Module, x: Tensor, memory: int) -> Stack | None:
    if not _is_own(module, _PIECEWISE + _SMOOTH):
        return None
    slope = _by_autograd(module)
    if isinstance(module, nn.Sigmoid):
        slope = _slope_of_sigmoid
    elif isinstance(module, nn.Tanh):
        slope = _slope_of_tanh
    with torch.no_grad():
        # a copy, since the module may work in place
        y = module(x.detach().clone())
    return Stack([Elementwise(slope, x.detach(), isinstance(module, _PIECEWISE))], y)


def _slope_of_sigmoid(z: Tensor) -> Tensor:
    return z.sigmoid() * (-z).sigmoid()


def _slope_of_tanh(z: Tensor) -> Tensor:
    # 1 - tanh^2 would round to zero long before it underflows
    return 4 * _slope_of_sigmoid(2 * z)


def _by_autograd(module: nn.Module) -> Callable[[Tensor], Tensor]:
    def slope(z: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = z.detach().clone().requires_grad_()
            # entries do not mix: the sum's gradient is the slopes
            (found,) = torch.autograd.grad(module(leaf.clone()).sum(), leaf)
        return found

    return slope


def _norm(module: nn.Module, x: Tensor, memory: int) -> Stack | None:
    """Norms over the features of one position, as they act on (n, d)."""
    own: tuple[type[nn.Module], ...] = (nn.LayerNorm, nn.RMSNorm)
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        if len(module.normalized_shape) != 1:
            return None
    elif isinstance(module, nn.GroupNorm):
        own = (nn.GroupNorm,)
        if x.shape[0] == x.shape[1]:  # (1, n, d) would be taken too, and normalised over time
            return None
    elif isinstance(module, (nn.Softmax, nn.LogSoftmax)):
        own = (nn.Softmax, nn.LogSoftmax)
        if module.dim != -1:
            return None
    if not _is_own(module, own):
        return None
    with torch.no_grad():
        return Stack([EachPosition(module, x.detach())], module(x))


@levels.register
def _(module: nn.BatchNorm1d, x: Tensor, memory: int) -> Stack | None:
    fixed = not module.training and module.running_mean is not None
    # of (1, n, d) it would take the positions for channels
    if not fixed or x.shape[0] == x.shape[1] or not _is_own(module, (nn.BatchNorm1d,)):
        return None
    with torch.no_grad():
        y = module(x)
    return Stack([Elementwise(_by_autograd(module), x.detach(), True)], y)


def _is_own(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
    return any(isinstance(module, kind) and is_plain(module, kind) for kind in kinds)


_PER_POSITION: tuple[tuple[tuple[type[nn.Module], ...], Callable[..., Stack | None]], ...] = (
    (_IDENTITY, _identity),
    ((*_PIECEWISE, *_SMOOTH), _elementwise),
    ((nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.Softmax, nn.LogSoftmax), _norm),
)
for _kinds, _function in _PER_POSITION:
    for _kind in _kinds:
        levels.register(_kind, _function)


def call_known(module: nn.Module, x: Tensor) -> Tensor:
    """A known layer at (n, d): in the layout of its own type, with a batch of one where it needs one."""
    if isinstance(module, nn.Sequential):
        for child in module:
            x = call_known(child, x)
        return x
    if isinstance(module, nn.RNNBase):
        axis = 0 if module.batch_first else 1
        return module(x.unsqueeze(axis))[0].squeeze(axis)
    if isinstance(module, nn.MultiheadAttention):
        return module(x, x, x, need_weights=False)[0]
    return module(x.T[None])[0].T if isinstance(module, nn.Conv1d) else module(x)


def _is_faithful(stack: nn.Sequential) -> bool:
    """Whether the children one by one, each at (n, d), give what torch computes for the whole.

    Behind a convolution torch hands (batch, channels, time) on, so that a norm or a softmax would act on
    other axes than on (n, d); and two recurrent layers must agree on where the batch is.
    """
    layout = natural_layout(stack) or "b n d"
    for child in stack:
        own = natural_layout(child)
        if isinstance(child, nn.MultiheadAttention):
            return False  # torch hands it one argument of three
        if isinstance(child, (nn.BatchNorm1d, *_POINTWISE)):
            continue  # in eval mode each channel by itself
        if isinstance(child, nn.Sequential):
            if own not in (None, layout) or (own is None and layout == "b d n" and not _is_pointwise(child)):
                return False
        elif (own != layout and (own is not None or layout == "b d n")) or isinstance(child, nn.GroupNorm):
            return False
    return True


_POINTWISE = (*_PIECEWISE, *_SMOOTH, *_IDENTITY)


def _is_pointwise(stack: nn.Sequential) -> bool:
    return all(isinstance(m, (*_POINTWISE, nn.Sequential)) for m in stack.modules())
