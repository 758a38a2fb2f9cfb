"""Modules that users bring, each with its input and what is right: its own call, or the refusal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import corpus_modules as own
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

N, D = 9, 4
F64 = torch.float64


def _batch_first(module: nn.Module, x: Tensor) -> Any:
    return module(x[None])


def _time_first(module: nn.Module, x: Tensor) -> Any:
    return module(x[:, None])


def _channels_first(module: nn.Module, x: Tensor) -> Any:
    return module(x.T[None])


def _alone(module: nn.Module, x: Tensor) -> Any:
    return module(x)


def _rows(result: Any) -> Tensor:
    y = result[0] if isinstance(result, tuple) else result
    return y[0]


@dataclass(frozen=True)
class Brought:
    """One module. ``truth`` maps (module, x (n, d)) to (n_out, d_out); ``refusal`` is a pattern."""

    build: Callable[[], nn.Module]
    truth: Callable[[nn.Module, Tensor], Tensor] | None = None
    refusal: str | None = None
    x: Callable[[], Any] = lambda: torch.randn(N, D, dtype=F64)
    options: dict[str, Any] = field(default_factory=dict)


def bnd(build, **options):
    return Brought(build, lambda m, x: _rows(_batch_first(m, x)), options=options)


def nbd(build, **options):
    def truth(m, x):
        y = _time_first(m, x)
        return (y[0] if isinstance(y, tuple) else y)[:, 0]

    return Brought(build, truth, options=options)


def bdn(build, **options):
    return Brought(build, lambda m, x: _rows(_channels_first(m, x)).T, options=options)


def refused(build, match, x=None, **options):
    return Brought(build, refusal=match, x=x or Brought.x, options=options)


def _eval(build):
    return lambda: build().eval()


def _hooked(kind, register, hook):
    def build():
        module = kind()
        getattr(module, register)(hook)
        return module

    return build


def _attention(**options):
    return nn.MultiheadAttention(D, 2, **options).eval()


def _encoder(**options):
    return nn.TransformerEncoderLayer(D, 2, 7, **options).eval()


def _cross(module, x, **forward):
    return module(x[:, None], **forward)[:, 0]


MASK = torch.full((N, N), -torch.inf, dtype=F64).triu(1)
PADDING = torch.arange(N) >= N - 2
TARGET = torch.linspace(-1, 1, 6 * D, dtype=F64).view(6, 1, D)

TORCH = {
    "linear": bnd(lambda: nn.Linear(D, 3)),
    "lstm, time first": nbd(lambda: nn.LSTM(D, 6)),
    "lstm, batch first": bnd(lambda: nn.LSTM(D, 6, batch_first=True)),
    "gru both ways, two layers": nbd(lambda: nn.GRU(D, 3, 2, bidirectional=True)),
    "relu rnn without biases": nbd(lambda: nn.RNN(D, 5, nonlinearity="relu", bias=False)),
    "lstm with projections": nbd(lambda: nn.LSTM(D, 6, proj_size=3)),
    "attention": Brought(_attention, lambda m, x: m(x, x, x)[0]),
    "attention, batch first": Brought(lambda: _attention(batch_first=True), lambda m, x: m(x, x, x)[0]),
    "attention, causal": Brought(
        _attention, lambda m, x: m(x, x, x, attn_mask=MASK)[0], options={"forward": {"attn_mask": MASK}}
    ),
    "attention, padded": Brought(
        _attention,
        lambda m, x: m(x, x, x, key_padding_mask=PADDING)[0],
        options={"forward": {"key_padding_mask": PADDING}},
    ),
    "encoder layer": nbd(_encoder),
    "encoder layer, pre-norm, batch first": bnd(lambda: _encoder(norm_first=True, batch_first=True)),
    "encoder, causal": Brought(
        lambda: nn.TransformerEncoder(_encoder(), 2, enable_nested_tensor=False).eval(),
        lambda m, x: m(x, mask=MASK),
        options={"forward": {"mask": MASK}},
    ),
    "decoder layer": Brought(
        lambda: nn.TransformerDecoderLayer(D, 2, 7).eval(),
        lambda m, x: m(x[:, None], TARGET)[:, 0],
        options={"forward": {"memory": TARGET}},
    ),
    "transformer": Brought(
        lambda: nn.Transformer(D, 2, 1, 1, 7).eval(),
        lambda m, x: m(x[:, None], TARGET)[:, 0],
        options={"forward": {"tgt": TARGET}},
    ),
    "transformer without its target": refused(
        lambda: nn.Transformer(D, 2, 1, 1, 7).eval(),
        r"missing 1 required .*'tgt'.*forward=",
    ),
    "conv": bdn(lambda: nn.Conv1d(D, 5, 3, padding=1)),
    "conv, strided": bdn(lambda: nn.Conv1d(D, 6, 3, stride=2, groups=2)),
    "conv, reflected": bdn(lambda: nn.Conv1d(D, 5, 3, padding=2, padding_mode="reflect")),
    "conv, transposed": bdn(lambda: nn.ConvTranspose1d(D, 5, 3, stride=2)),
    "max pool": bdn(lambda: nn.MaxPool1d(2)),
    "average pool": bdn(lambda: nn.AvgPool1d(3, 2)),
    "global pool": bdn(lambda: nn.AdaptiveAvgPool1d(1)),
    "reflection pad": bdn(lambda: nn.ReflectionPad1d(2)),
    "batch norm": bdn(_eval(lambda: nn.BatchNorm1d(D))),
    "group norm": bdn(lambda: nn.GroupNorm(2, D)),
    "instance norm": bdn(lambda: nn.InstanceNorm1d(D)),
    "layer norm": bnd(lambda: nn.LayerNorm(D)),
    "rms norm": bnd(lambda: nn.RMSNorm(D)),
    "softmax over features": bnd(lambda: nn.Softmax(-1)),
    "softmax over time or features": refused(lambda: nn.Softmax(1), r"\(1, 9, 4\) and on \(9, 4\)"),
    "softmax over time, said": bnd(lambda: nn.Softmax(1), layout="b n d"),
    "softmax over the batch": refused(lambda: nn.Softmax(0), r"\(1, 9, 4\) and on \(9, 4\)"),
    "prelu": bnd(lambda: nn.PReLU()),
    "glu": bnd(lambda: nn.GLU()),
    "dropout, at rest": bnd(_eval(lambda: nn.Dropout(0.5))),
    "dropout, active": refused(lambda: nn.Dropout(0.5), r"dropout 0\.5 of .* is active"),
    "batch norm in train mode": refused(lambda: nn.BatchNorm1d(D), "updates its statistics in train mode"),
}

CONTAINERS = {
    "conv, group norm": bdn(lambda: nn.Sequential(nn.Conv1d(D, 8, 3, padding=1), nn.GroupNorm(2, 8))),
    "conv, instance norm": bdn(lambda: nn.Sequential(nn.Conv1d(D, 5, 3), nn.InstanceNorm1d(5))),
    "conv, max pool": bdn(lambda: nn.Sequential(nn.Conv1d(D, 5, 3, padding=1), nn.MaxPool1d(2))),
    "conv, softmax over time": bdn(lambda: nn.Sequential(nn.Conv1d(D, 5, 3, padding=1), nn.Softmax(-1))),
    "conv, group norm, conv": bdn(
        lambda: nn.Sequential(nn.Conv1d(D, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv1d(8, 3, 3))
    ),
    "conv, relu, conv": bdn(lambda: nn.Sequential(nn.Conv1d(D, 6, 3), nn.ReLU(), nn.Conv1d(6, 5, 3))),
    "conv, batch norm": bdn(_eval(lambda: nn.Sequential(nn.Conv1d(D, 6, 3), nn.BatchNorm1d(6), nn.Tanh()))),
    "conv, linear over time": bdn(lambda: nn.Sequential(nn.Conv1d(D, 5, 3, padding=1), nn.Linear(N, 7))),
    "lstm handed on": Brought(
        lambda: nn.Sequential(nn.LSTM(D, 6), nn.Linear(6, 3)), lambda m, x: m[1](m[0](x[:, None])[0])[:, 0]
    ),
    "lstm handed on twice": Brought(
        lambda: nn.Sequential(nn.Sequential(nn.GRU(D, 6, batch_first=True)), nn.LSTM(6, 3, batch_first=True)),
        lambda m, x: m[1](m[0][0](x[None])[0])[0][0],
    ),
    "transposed around a conv": bnd(
        lambda: nn.Sequential(own.Transpose(), nn.Conv1d(D, 5, 3, padding=1), own.Transpose())
    ),
    "transposed around a conv, n = d": refused(
        lambda: nn.Sequential(own.Transpose(), nn.Conv1d(N, 5, 3), own.Transpose()),
        r"both orders would run; say layout=",
        lambda: torch.randn(N, N, dtype=F64),
    ),
    "the same, said": Brought(
        lambda: nn.Sequential(own.Transpose(), nn.Conv1d(N, 5, 3, padding=1), own.Transpose()),
        lambda m, x: m(x[None])[0],
        x=lambda: torch.randn(N, N, dtype=F64),
        options={"layout": "b n d"},
    ),
    "attention in a stack": refused(lambda: nn.Sequential(_attention()), r"fails on x.*missing 2 required"),
    "parts that disagree": refused(
        lambda: nn.Sequential(nn.LSTM(D, 6, batch_first=True), nn.GRU(6, 3)), r"does not take \(batch, n, d\)"
    ),
}

OWN = {
    "residual stack": bnd(lambda: own.Residual(nn.Linear(D, D))),
    "residual stack, nested": bnd(lambda: nn.Sequential(own.Residual(nn.Linear(D, D)), nn.Tanh())),
    "residual stack over time": bnd(lambda: own.Cumulated(nn.Linear(D, 3))),
    "forward hook": bnd(
        _hooked(lambda: nn.Sequential(nn.Linear(D, 3)), "register_forward_hook", lambda m, a, y: 5 * y)
    ),
    "forward pre-hook": bnd(
        _hooked(
            lambda: nn.LSTM(D, 3, batch_first=True), "register_forward_pre_hook", lambda m, a: (a[0] ** 2,)
        )
    ),
    "hook on a part": bnd(
        lambda: nn.Sequential(
            _hooked(lambda: nn.Linear(D, 3), "register_forward_hook", lambda m, a, y: y.cumsum(-2))(),
            nn.Tanh(),
        )
    ),
    "backward hook": bnd(
        _hooked(lambda: nn.Linear(D, 3), "register_full_backward_hook", lambda m, gi, go: (2 * gi[0],))
    ),
    "own __call__": bnd(lambda: own.Calls(D, 3, batch_first=True)),
    "own forward of an lstm": bnd(lambda: own.SummedLSTM(D, 3, batch_first=True)),
    "lstm, linear": bnd(lambda: own.Tagger(D, 6, 3)),
    "own gru pooled by attention": bnd(lambda: own.Pooled(D, 6)),
    "normalised over time": refused(lambda: own.TimeNorm(), r"\(1, 9, 4\) and on \(9, 4\).*layout='b n d'"),
    "normalised over time, said": bnd(lambda: own.TimeNorm(), layout="b n d"),
    "last step kept": bnd(lambda: own.LastKept(D, 3), layout="b n d"),
    "last step, unsaid": refused(lambda: own.SlicesLast(), r"\(1, 9, 4\) and on \(9, 4\)"),
    "last step": Brought(lambda: own.Last(D, 3), lambda m, x: m(x[None])),
    "scalar loss": Brought(lambda: own.Loss(D), lambda m, x: m(x[None]).view(1, 1)),
    "pooled": Brought(lambda: own.MeanPool(D, 3), lambda m, x: m(x[None]), options={"layout": "b n d"}),
    "class token in front": bnd(lambda: own.ClassToken(D)),
    "forecast": bnd(lambda: own.Forecast(D, 12), position="forecast"),
    "conv without padding": bnd(lambda: own.Unpadded(D, 3)),
    "time in the place of the batch": refused(lambda: own.Tagger(D, 6, 3, batch_first=False), r"\(9, 4\)"),
    "the same, said": Brought(
        lambda: own.Tagger(D, 6, 3, batch_first=False),
        lambda m, x: m(x[:, None])[:, 0],
        options={"layout": "n b d"},
    ),
    "the same, said wrongly": refused(
        lambda: own.Tagger(D, 6, 3, batch_first=False), r"does not take \(batch, n, d\)", layout="b n d"
    ),
    "batch normalised by hand": refused(lambda: own.BatchCentred(), r"\(1, 9, 4\) and on \(9, 4\)"),
    "only without a batch": Brought(lambda: own.OneSequence(), lambda m, x: m(x)),
    "channels first": Brought(
        lambda: own.Channels(D, 5), lambda m, x: m(x.T[None])[0].T, options={"layout": "b d n"}
    ),
    "causal transformer": bnd(lambda: own.CausalEncoder(D).eval()),
    "scaled dot product attention": bnd(lambda: own.DotProduct(D, 3)),
    "packed": bnd(lambda: own.Packed(D, 6)),
    "packed output": Brought(lambda: own.PackedOutput(D, 6), lambda m, x: m(x[None]).data),
    "tuple": bnd(lambda: own.Returns(D, lambda y: (y, y.sum()))),
    "list": Brought(lambda: own.Returns(D, lambda y: [y]), lambda m, x: m(x[None])[0][0]),
    "dict": Brought(
        lambda: own.Returns(D, lambda y: {"loss": y.sum(), "hidden": y}), lambda m, x: m(x[None])["hidden"][0]
    ),
    "logits": Brought(
        lambda: own.Returns(D, lambda y: {"last_hidden_state": y, "logits": 2 * y.cumsum(-2)}),
        lambda m, x: m(x[None])["logits"][0],
        options={"of": "logits"},
    ),
    "loss": Brought(
        lambda: own.Returns(D, lambda y: {"loss": y.square().mean(), "logits": y}),
        lambda m, x: m(x[None])["loss"].view(1, 1),
        options={"of": "loss"},
    ),
    "no such output": refused(lambda: own.Returns(D, lambda y: y), "no 'logits'", of="logits"),
    "a tensor for each position": refused(
        lambda: own.Returns(D, lambda y: list(y.unbind(1))),
        r"returns 9 tensors \(1, 4\), one for each position",
    ),
    "the same, nested": refused(
        lambda: own.Returns(D, lambda y: {"steps": (y.split(1, 1), None)}), r"returns 9 tensors \(1, 1, 4\)"
    ),
    "as many layers as positions": Brought(
        lambda: own.Returns(D, lambda y: [y] * N), lambda m, x: m(x[None])[0][0]
    ),
    "text": refused(lambda: own.Returns(D, lambda y: "y"), "returned str"),
    "no dependence": refused(lambda: own.Returns(D, lambda y: y.detach()), "does not depend on the input"),
    "integers": refused(lambda: own.Returns(D, lambda y: y.argmax(-1, keepdim=True)), "no derivative"),
    "complex": refused(
        lambda: own.Returns(D, lambda y: torch.fft.rfft(y, dim=-1)), "is complex.*view_as_real"
    ),
    "nested": refused(
        lambda: own.Returns(D, lambda y: torch.nested.as_nested_tensor(list(y), layout=torch.jagged)),
        "is a nested tensor.*to_padded_tensor",
    ),
    "of four axes": refused(lambda: own.Returns(D, lambda y: y[None]), r"shape \(1, 1, 9, 4\)"),
    "two inputs": Brought(
        lambda: own.TwoInputs(D),
        lambda m, x: m(x[None], scale=torch.tensor(3.0, dtype=F64))[0],
        options={"forward": {"scale": torch.tensor(3.0, dtype=F64)}},
    ),
    "two inputs, one missing": refused(lambda: own.TwoInputs(D), "missing 1 required.*'scale'.*forward="),
    "an argument of no forward": refused(lambda: nn.Linear(D, 3), "unexpected keyword", forward={"mask": 1}),
}

INSIDE = {
    "weight norm": bnd(lambda: parametrizations.weight_norm(nn.Linear(D, 3))),
    "weight norm of a conv": bdn(lambda: parametrizations.weight_norm(nn.Conv1d(D, 5, 3))),
    "weight norm of an lstm": bnd(
        lambda: parametrizations.weight_norm(nn.LSTM(D, 5, batch_first=True), "weight_hh_l0")
    ),
    "spectral norm": bnd(_eval(lambda: parametrizations.spectral_norm(nn.Linear(D, 3)))),
    "spectral norm in train mode": bnd(lambda: parametrizations.spectral_norm(nn.Linear(D, 3))),
    "orthogonal": bnd(lambda: parametrizations.orthogonal(nn.Linear(D, D))),
    "pruned": bnd(lambda: prune.random_unstructured(nn.Linear(D, 3), "weight", amount=0.5)),
    "old weight norm": bnd(lambda: own.old_weight_norm(nn.Linear(D, 3))),
    "scripted": bnd(lambda: torch.jit.script(own.Scriptable(D))),
    "scripted lstm": bnd(lambda: torch.jit.script(own.Tagger(D, 6, 3))),
    "traced": bnd(lambda: torch.jit.trace(own.Scriptable(D), torch.zeros(1, N, D))),
    "compiled": bnd(lambda: torch.compile(own.Scriptable(D), backend="eager")),
    "built at first use": bnd(lambda: own.LazyTable(D)),
    "lazy": refused(lambda: nn.LazyLinear(3), "is lazy and not made yet; call the module once"),
    "running average": bnd(lambda: own.RunningAverage(D), layout="b n d"),
    "running average in place": bnd(lambda: own.RunningAverage(D, in_place=True), layout="b n d"),
    "running average in place, in a list": bnd(
        lambda: own.RunningAverage(D, in_place=True, listed=True), layout="b n d"
    ),
    "running average over the batch": bnd(lambda: own.RunningAverage(D, whole=True), layout="b n d"),
    "keeps its state": bnd(lambda: own.KeepsState(D, 5)),
    "counts": bnd(lambda: own.Counts(D)),
    "caches": bnd(lambda: own.Caches(D)),
    "writes out of reach": refused(
        lambda: own.WritesOutOfReach(D), "writes in place into a tensor|two outputs"
    ),
    "clips its weight": bnd(lambda: own.ClipsWeight(D)),
    "writes the same": bnd(lambda: own.WritesTheSame(D)),
    "calls backward inside": bnd(lambda: own.CallsBackward(D)),
    "switches its mode": bnd(lambda: own.SwitchesMode(D)),
    "sets threads and dtype": bnd(lambda: own.SetsProcess(D)),
    "draws noise": refused(lambda: own.Noisy(), "draws random numbers"),
    "draws from numpy": refused(lambda: own.Noisy("numpy"), "draws random numbers"),
    "draws from python": refused(lambda: own.Noisy("python"), "draws random numbers"),
    "draws from its own generator": refused(lambda: own.Noisy("own"), "draws random numbers|two outputs"),
    "layer drop": refused(lambda: own.LayerDrop(D), "draws random numbers"),
    "fourier": bnd(lambda: own.Fourier()),
    "forward mode": bnd(lambda: own.ForwardMode(D)),
    "nested tensor": bnd(lambda: own.Nested(D), layout="b n d"),
    "complex inside": bnd(lambda: own.ComplexState(D)),
    "strided": bnd(lambda: own.Strided()),
    "in place": bnd(lambda: own.InPlace(D)),
    "custom function with item": bnd(lambda: own.Custom(own.WithItem)),
    "custom function with stores": bnd(lambda: own.Custom(own.WithStores)),
    "custom function with numpy": bnd(lambda: own.Custom(own.WithNumpy)),
    "checkpoint": bnd(lambda: own.Checkpointed(D, False)),
    "reentrant checkpoint": bnd(lambda: own.Checkpointed(D, True)),
    "sparse weight": Brought(lambda: own.SparseMixer(N), lambda m, x: m(x), options={"layout": "n d"}),
    "loop of cells": bnd(lambda: own.CellLoop(D, 5)),
    "data decides": bnd(lambda: own.DataDecides(D)),
    "float32 inside": bnd(lambda: own.Narrow(D)),
    "shared layer twice": bnd(lambda: own.Twice(D)),
    "without gradients": refused(lambda: own.NoGrad(D), "does not depend on the input"),
    "raises": refused(lambda: own.Raises(ValueError("odd length")), "fails on x.*: odd length"),
    "raises of its own": refused(lambda: own.Raises(own.OwnError("not today")), "fails on x.*: not today"),
}

FAULTS = {
    "meta": refused(lambda: nn.Linear(D, 3, device="meta"), "is on the meta device"),
    "made in inference mode": refused(own.inference_linear, "made under torch.inference_mode"),
    "quantised": refused(own.quantised, "is quantised"),
    "half": refused(lambda: nn.Linear(D, 3).half(), "bring them together"),
    "weight of nan": refused(own.nan_linear, "weight 'weight' holds NaN"),
    "float32 weights": refused(lambda: own.Kept32(D), "bring them together"),
    "x of nan": refused(lambda: nn.Linear(D, 3), "x holds NaN", lambda: torch.full((N, D), torch.nan)),
    "x too narrow": refused(lambda: nn.Linear(D, 3), "fails on x|wide", lambda: torch.randn(N, 3).double()),
    "x complex": refused(lambda: nn.Linear(D, 3), "x is complex", lambda: torch.randn(N, D).cfloat()),
    "x of one step": refused(lambda: nn.Linear(D, 3), "n >= 2", lambda: torch.randn(1, D).double()),
    "ids of a matrix": refused(lambda: nn.Embedding(5, 3), r"ids \(n,\)", lambda: torch.ones(3, 4).long()),
    "no such layout": refused(lambda: nn.Linear(D, 3), "layout must be one of", layout="b d t"),
    "no such submodule": refused(lambda: own.Tagger(D, 6, 3), "unknown of 'heed'; did you mean", of="heed"),
    "wrt h of a class": refused(lambda: own.Tagger(D, 6, 3), "needs the chain operator", wrt="h"),
    "position of another length": refused(lambda: nn.Linear(D, 3), "must hold 9 finite", position=[1.0]),
}

MODULES = {**TORCH, **CONTAINERS, **OWN, **INSIDE, **FAULTS}
