"""Forwards of users' own, as they come: stateful, lazy, hooked, in place, random, custom, packed, complex."""

from __future__ import annotations

import math
import random
import warnings
from collections import UserList

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint


class OwnError(Exception):
    """An error that is none of Python's."""


class Transpose(nn.Module):
    def forward(self, x):
        return x.transpose(-1, -2)


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


class Cumulated(nn.Sequential):
    def forward(self, x):
        return super().forward(x).cumsum(-2)


class Calls(nn.LSTM):
    def __call__(self, x):
        return super().__call__(x.cumsum(-1))[0] * 3


class SummedLSTM(nn.LSTM):
    def forward(self, x):
        y, _ = super().forward(x)
        return y.flip(-2) + y


class Tagger(nn.Module):
    def __init__(self, d_in, d, d_out, batch_first=True):
        super().__init__()
        self.recurrent = nn.LSTM(d_in, d, batch_first=batch_first)
        self.head = nn.Linear(d, d_out)

    def forward(self, x):
        return self.head(self.recurrent(x)[0])


class Pooled(nn.Module):
    def __init__(self, d_in, d):
        super().__init__()
        self.gru = nn.GRU(d_in, d, batch_first=True, bidirectional=True)
        self.query, self.value = nn.Linear(d_in, 2 * d), nn.Linear(2 * d, 3)

    def forward(self, x):
        h = self.gru(x)[0]
        return (self.query(x) @ h.transpose(-1, -2)).softmax(-1) @ self.value(h)


class TimeNorm(nn.Module):
    def forward(self, x):
        return (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)


class SlicesLast(nn.Module):
    def forward(self, x):
        return x.cumsum(-2)[:, -1:]


class LastKept(nn.Module):
    def __init__(self, d_in, d):
        super().__init__()
        self.lstm = nn.LSTM(d_in, d, batch_first=True)

    def forward(self, x):
        return self.lstm(x)[0][:, -1:]


class Last(LastKept):
    def forward(self, x):
        assert x.ndim == 3
        return self.lstm(x)[0][:, -1]


class Loss(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.linear = nn.Linear(d, d)

    def forward(self, x):
        return self.linear(x).tanh().square().mean()


class MeanPool(nn.Module):
    def __init__(self, d_in, d):
        super().__init__()
        self.linear = nn.Linear(d_in, d)

    def forward(self, x):
        return self.linear(x).tanh().mean(1)


class ClassToken(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, d))
        self.linear = nn.Linear(d, d)

    def forward(self, x):
        y = torch.cat([self.token + x.mean(1, keepdim=True), x], 1)
        return self.linear(y)


class Forecast(nn.Module):
    def __init__(self, d, steps):
        super().__init__()
        self.steps, self.d = steps, d
        self.linear = nn.Linear(d, steps * d)

    def forward(self, x):
        return self.linear(x[:, -1]).view(len(x), self.steps, self.d)


class Unpadded(nn.Module):
    def __init__(self, d_in, d):
        super().__init__()
        self.conv = nn.Conv1d(d_in, d, 5)

    def forward(self, x):
        return self.conv(x.transpose(1, 2)).transpose(1, 2)


class BatchCentred(nn.Module):
    def forward(self, x):
        return (x - 0.5 * x.mean(0)).cumsum(-2)


class OneSequence(nn.Module):
    def forward(self, x):
        n, _ = x.shape
        return x.cumsum(0) / n


class Channels(nn.Module):
    def __init__(self, d_in, d):
        super().__init__()
        self.conv = nn.Conv1d(d_in, d, 3, padding=1)

    def forward(self, x):
        return self.conv(x).relu()


class CausalEncoder(nn.Module):
    def __init__(self, d):
        super().__init__()
        layer = nn.TransformerEncoderLayer(d, 2, 7, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x):
        mask = torch.full((x.shape[1],) * 2, -torch.inf, dtype=x.dtype).triu(1)
        return self.encoder(x, mask=mask)


class DotProduct(nn.Module):
    def __init__(self, d_in, d):
        super().__init__()
        self.qkv = nn.Linear(d_in, 3 * d)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class Packed(nn.Module):
    def __init__(self, d_in, d):
        super().__init__()
        self.gru = nn.GRU(d_in, d, batch_first=True)

    def forward(self, x):
        packed = pack_padded_sequence(x, [x.shape[1]] * len(x), batch_first=True)
        return pad_packed_sequence(self.gru(packed)[0], batch_first=True)[0]


class PackedOutput(Packed):
    def forward(self, x):
        return self.gru(pack_padded_sequence(x, [x.shape[1]] * len(x), batch_first=True))[0]


class Returns(nn.Module):
    def __init__(self, d, make):
        super().__init__()
        self.linear, self.make = nn.Linear(d, d), make

    def forward(self, x):
        return self.make(self.linear(x).cumsum(-2))


class TwoInputs(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.linear = nn.Linear(d, 3)

    def forward(self, x, scale):
        return self.linear(x).cumsum(-2) * scale


def old_weight_norm(module):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(module)


class Scriptable(nn.Module):
    def __init__(self, d: int):
        super().__init__()
        self.linear = nn.Linear(d, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.linear(x)).cumsum(-2)


class LazyTable(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.linear, self.table = nn.Linear(d, d), None

    def forward(self, x):
        if self.table is None or self.table.shape[0] < x.shape[-2]:
            self.table = torch.arange(x.shape[-2], dtype=x.dtype)[:, None].cos()
            self.register_buffer("mask", torch.ones(x.shape[-2], dtype=x.dtype), persistent=False)
        return (self.linear(x) * self.table * self.mask[:, None]).cumsum(-2)


class RunningAverage(nn.Module):
    def __init__(self, d, in_place=False, listed=False, whole=False):
        super().__init__()
        self.linear, self.in_place, self.whole = nn.Linear(d, d), in_place, whole
        self.register_buffer("ema", torch.ones(d))
        self.more = {"kept": [torch.ones(d, dtype=torch.float64)]} if listed else {}

    def forward(self, x):
        mean = (x if self.whole else x[-1:]).detach().mean((0, 1)).to(self.ema)
        if self.in_place:
            self.ema.mul_(0.9).add_(0.1 * mean)
            for kept in self.more.get("kept", []):
                kept.add_(mean.to(kept))
                x = x * kept
        else:
            self.ema = 0.9 * self.ema + 0.1 * mean
        return self.linear(x * self.ema).cumsum(1)


class KeepsState(nn.Module):
    def __init__(self, d_in, d):
        super().__init__()
        self.gru, self.state = nn.GRU(d_in, d, batch_first=True), None

    def forward(self, x):
        y, self.state = self.gru(x, self.state if self.state is not None and len(x) == 1 else None)
        return y


class Counts(nn.Module):
    made = 0

    def __init__(self, d):
        super().__init__()
        self.linear, self.calls, self.log = nn.Linear(d, 3), 0, {"seen": [], "kinds": set()}

    def forward(self, x):
        self.calls += 1
        self.log["seen"].append(tuple(x.shape))
        self.log["kinds"].add(x.ndim)
        type(self).made += 1
        return self.linear(x).cumsum(-2)


class _Cache:
    def __init__(self):
        self.keys, self.length = [], 0


class Caches(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.linear, self.cache, self.array = nn.Linear(d, d), _Cache(), np.zeros(3)

    def forward(self, x):
        self.cache.keys.append(x.detach())
        self.cache.length += x.shape[-2]
        self.array += 1
        return self.linear(x).cumsum(-2) * len(self.cache.keys)


_KEPT = UserList([torch.ones(1, dtype=torch.float64)])


class WritesOutOfReach(nn.Module):
    """Into a tensor in an object of the standard library, which is not looked into."""

    def __init__(self, d):
        super().__init__()
        self.linear = nn.Linear(d, d)

    def forward(self, x):
        _KEPT[0].add_(1)
        return self.linear(x) * _KEPT[0].detach().clone()


class ClipsWeight(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.linear = nn.Linear(d, 3)

    def forward(self, x):
        with torch.no_grad():
            self.linear.weight.mul_(0.5)
        return self.linear(x).cumsum(-2)


class WritesTheSame(ClipsWeight):
    """Writes into its weight at every call, and every time the same bits."""

    def forward(self, x):
        with torch.no_grad():
            self.linear.weight.div_(1)
        return self.linear(x).cumsum(-2)


class CallsBackward(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.linear = nn.Linear(d, 3)

    def forward(self, x):
        self.linear(x.detach()).sum().backward()
        return self.linear(x).cumsum(-2)


class SwitchesMode(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.linear, self.drop = nn.Linear(d, 3), nn.Dropout(0.0)

    def forward(self, x):
        self.eval()
        self.linear.bias.requires_grad_(False)
        self.register_forward_hook(lambda m, a, y: None)
        return self.linear(x).cumsum(-2)


class SetsProcess(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.linear = nn.Linear(d, 3)

    def forward(self, x):
        torch.set_num_threads(2)
        torch.set_default_dtype(torch.float64)
        return self.linear(x).cumsum(-2)


class Noisy(nn.Module):
    def __init__(self, source="torch"):
        super().__init__()
        self.source, self.generator = source, torch.Generator()

    def forward(self, x):
        if self.source == "numpy":
            return x * float(np.random.rand())
        if self.source == "python":
            return x * random.random()
        if self.source == "own":
            return x + torch.randn(x.shape, generator=self.generator, dtype=x.dtype)
        return x + 1e-3 * torch.randn_like(x)


class LayerDrop(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.linear = nn.Linear(d, d)

    def forward(self, x):
        for _ in range(3):
            if not self.training or torch.rand(()) > 0.1:
                x = self.linear(x).tanh()
        return x.cumsum(-2)


class Fourier(nn.Module):
    def forward(self, x):
        return torch.fft.irfft(torch.fft.rfft(x, dim=-2) * 1j, n=x.shape[-2], dim=-2)


class Nested(nn.Module):
    """Two sequences of different lengths, cut out of one, in a nested tensor."""

    def __init__(self, d):
        super().__init__()
        self.linear = nn.Linear(d, 3)

    def forward(self, x):
        both = torch.nested.as_nested_tensor([x[0, :4], x[0, 4:]], layout=torch.jagged)
        return torch.cat([part.cumsum(0) for part in self.linear(both).unbind()])[None]


class ForwardMode(nn.Module):
    """Takes a directional derivative on the way, where torch makes zeros that have no memory."""

    def __init__(self, d):
        super().__init__()
        self.linear = nn.Linear(d, 3)

    def forward(self, x):
        return torch.func.jvp(lambda z: torch.tanh(self.linear(z)), (x,), (x.cumsum(-2),))[1]


class ComplexState(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.log_decay = nn.Parameter(torch.tensor(0.3))
        self.linear = nn.Linear(d, 3)

    def forward(self, x):
        factor = torch.complex(-self.log_decay, self.log_decay).exp()
        h, out = torch.zeros_like(x[..., 0, :]).to(factor.dtype), []
        for step in x.unbind(-2):
            h = factor * h + step
            out.append(h.real)
        return self.linear(torch.stack(out, -2))


class Strided(nn.Module):
    def forward(self, x):
        return x.cumsum(-2)[..., ::2, :].square()


class InPlace(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.linear = nn.Linear(d, d)

    def forward(self, x):
        x += 1.0
        y = self.linear(x)
        y[..., 1:, :] *= y[..., :-1, :].clone()
        return y.relu_()


class WithItem(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, g):
        return 2 * g if g.abs().max().item() >= 0 else g


class WithStores(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.flip(-2)

    @staticmethod
    def backward(ctx, g):
        out = torch.zeros(g.shape, dtype=g.dtype)
        for i in range(g.shape[-2]):
            out[..., g.shape[-2] - 1 - i, :] = g[..., i, :]
        return out


class WithNumpy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.from_numpy(np.sin(x.detach().numpy()))

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return torch.from_numpy(np.cos(x.detach().numpy()) * g.numpy())


class Custom(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function.apply(x.cumsum(-2)).square()


class Checkpointed(nn.Module):
    def __init__(self, d, reentrant):
        super().__init__()
        self.linear, self.reentrant = nn.Linear(d, 3), reentrant

    def forward(self, x):
        return checkpoint(lambda z: self.linear(z).tanh(), x, use_reentrant=self.reentrant).cumsum(-2)


class SparseMixer(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.register_buffer("mix", torch.eye(n).roll(1, 0).to_sparse())

    def forward(self, x):
        return torch.sparse.mm(self.mix, x).tanh()


class CellLoop(nn.Module):
    def __init__(self, d_in, d):
        super().__init__()
        self.cell = nn.LSTMCell(d_in, d)

    def forward(self, x):
        h = c = x.new_zeros(len(x), self.cell.hidden_size)
        out = []
        for step in x.unbind(1):
            h, c = self.cell(step, (h, c))
            out.append(h)
        return torch.stack(out, 1)


class DataDecides(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.linear = nn.Linear(d, 3)

    def forward(self, x):
        return self.linear(x).cumsum(-2) if float(x.detach().sum()) > -1e9 else x


class Narrow(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.linear = nn.Linear(d, 3)

    def forward(self, x):
        return self.linear(x.float().double()).cumsum(-2)


class Twice(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.linear = nn.Linear(d, d)

    def forward(self, x):
        return self.linear(self.linear(x).cumsum(-2).tanh())


class NoGrad(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.linear = nn.Linear(d, 3)

    @torch.no_grad()
    def forward(self, x):
        return self.linear(x)


class Raises(nn.Module):
    """Damages itself and fails, at the call given."""

    def __init__(self, error, at=1):
        super().__init__()
        self.linear, self.error, self.left = nn.Linear(4, 3), error, [at]
        self.register_buffer("seen", torch.zeros(3))
        self.table = None

    def forward(self, x):
        self.seen += 1
        self.table = x
        with torch.no_grad():
            self.linear.weight.add_(1)
        torch.rand(1)
        self.counted = True
        calls = getattr(self.error, "calls", 0) + 1
        self.error.calls = calls
        if calls >= self.left[0]:
            raise self.error
        torch.manual_seed(torch.initial_seed())
        return self.linear(x)


class Kept32(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.linear = nn.Linear(d, 3)

    def double(self):
        return self

    def forward(self, x):
        return self.linear(x)


def inference_linear():
    with torch.inference_mode():
        return nn.Linear(4, 3).double()


def nan_linear():
    module = nn.Linear(4, 3)
    with torch.no_grad():
        module.weight[0, 0] = math.nan
    return module


def quantised():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(
            nn.Sequential(nn.Linear(4, 3)), {nn.Linear}, dtype=torch.qint8
        )
