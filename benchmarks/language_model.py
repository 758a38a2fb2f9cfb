"""A language model beside plain autograd: the curve of a 12-layer GPT-2, an exact row, every depth at once.

    plain      one torch.autograd.grad a target and probe, on the input up to the target alone
    batched    torch.autograd.grad(is_grads_batched=True), several targets or units a call, on the whole input
    depprobe   depprobe.jacobian, with its checks, proofs of zeros, error estimates and labels

A product is one vector-Jacobian product of the curve, or of the row; ``ratio`` is the time of a product
over that of a plain backward pass that ends at the target. The time of a call holds all that belongs to it:
forward passes, proofs of zeros, pilots of the effective rank, repeats that estimate rounding; its products
alone stand in a line below. All do the same work: same weights, tokens and targets; the rows are compared.
Exact rows at every depth are taken of a narrower model.
Usage: python benchmarks/language_model.py [--small] [--memory 4GiB] [--threads 2]
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
import xarray as xr
from torch import Tensor, nn

import depprobe
from depprobe.core.options import parse_bytes, wanted_positions

VOCABULARY, CHUNK = 1000, 16


class Size(NamedTuple):
    """Of the model, the curve and the exact row."""

    layers: int
    d: int
    heads: int
    n: int
    targets: int
    row_n: int


SMALL, FULL = Size(2, 48, 4, 96, 8, 48), Size(12, 768, 12, 1000, 64, 256)


def model_of(size: Size) -> nn.Module:
    """GPT-2 with random weights, parameters frozen."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=size.n,
        n_embd=size.d,
        n_layer=size.layers,
        n_head=size.heads,
        bos_token_id=0,
        eos_token_id=0,
    )
    config.use_cache = False
    model: nn.Module = transformers.GPT2Model(config).eval()
    return model


def recorded(model: Any, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The embeddings (n, d) that are differentiated in, and the last hidden state (n, d)."""
    leaf = model.wte(ids).detach().requires_grad_()
    return leaf, model(inputs_embeds=leaf[None]).last_hidden_state[0]


def plain(model: nn.Module, ids: Tensor, targets: Iterator[int]) -> tuple[float, float]:
    """Seconds in forward passes, and in backward passes, each up to its target."""
    forward = backward = 0.0
    for t in targets:
        start = time.perf_counter()
        leaf, y = recorded(model, ids[: t + 1])
        middle = time.perf_counter()
        torch.autograd.grad(y[t], leaf, torch.randn(y.shape[1]))
        forward, backward = forward + middle - start, backward + time.perf_counter() - middle
    return forward, backward


def batched(model: nn.Module, ids: Tensor, cotangents: list[tuple[int, Tensor]]) -> np.ndarray:
    """ln norms (products, n) of rows v^T J[t,:], several at a time on the whole input."""
    leaf, y = recorded(model, ids)
    found = []
    for first in range(0, len(cotangents), CHUNK):
        part = cotangents[first : first + CHUNK]
        v = torch.zeros(len(part), *y.shape)
        for i, (t, row) in enumerate(part):
            v[i, t] = row
        (grads,) = torch.autograd.grad(y, leaf, v, retain_graph=True, is_grads_batched=True)
        found.append(grads.double().square().sum(2))
    with np.errstate(divide="ignore"):
        return 0.5 * np.log(torch.cat(found).numpy())


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that a call takes, and what it gives."""
    start = time.perf_counter()
    found = call()
    return time.perf_counter() - start, found


class Backward:
    """While it is entered, the seconds in ``torch.autograd.grad``, and the number of products."""

    def __enter__(self) -> Backward:
        self.seconds, self.products, self._grad = 0.0, 0, torch.autograd.grad
        torch.autograd.grad = self._timed
        return self

    def __exit__(self, *error: object) -> None:
        torch.autograd.grad = self._grad

    def _timed(self, *args: Any, **kwargs: Any) -> Any:
        seconds, found = timed(lambda: self._grad(*args, **kwargs))
        if isinstance(args[2], Tensor):  # else it is a mark that proves zeros
            self.seconds += seconds
            self.products += len(args[2]) if kwargs.get("is_grads_batched") else 1
        return found


def say(name: str, seconds: float, products: int, backward: float) -> None:
    """One line of the table."""
    each = seconds / products
    print(
        f"  {name:34}{seconds:9.2f} s{1e3 * each:10.1f} ms a product    ratio {each / backward:5.2f}",
        flush=True,
    )


def curve(model: nn.Module, ids: Tensor, size: Size, memory: str) -> None:
    """The curve from stratified targets with one probe each."""
    targets = wanted_positions(f"random:{size.targets}", size.n, 0).tolist()
    print(
        f"curve: {size.layers} layers, d = {size.d}, n = {size.n}, {len(targets)} targets with one probe each"
    )
    forward, backward = plain(model, ids, iter(targets))
    each = backward / len(targets)
    say("plain, backward passes alone", backward, len(targets), each)
    say("plain, with forward passes", forward + backward, len(targets), each)
    seconds, _ = timed(lambda: batched(model, ids, [(t, torch.randn(size.d)) for t in targets]))
    say("batched, whole input", seconds, len(targets), each)
    asked = {"method": "probes", "probes": 1, "targets": targets, "memory": memory}
    with Backward() as told:
        seconds, ds = timed(lambda: depprobe.jacobian(model, ids, **asked))
    say("depprobe", seconds, len(targets), each)
    say(f"depprobe, its {told.products} products alone", told.seconds, told.products, each)
    known = depprobe.decay_curve(ds)
    print(
        f"  rms of the norm at lag 1 and {size.n // 2}: {_rms(known, 1):.2e}, {_rms(known, size.n // 2):.2e}"
    )


def _rms(known: xr.Dataset, lag: int) -> float:
    return float(np.exp(known["log_rms"].sel(lag=lag)))


def row(model: nn.Module, ids: Tensor, size: Size, memory: str) -> None:
    """An exact row at the last of fewer positions."""
    short, t = ids[: size.row_n], size.row_n - 1
    print(f"exact row: n = {size.row_n}, {size.d} products")
    _, backward = plain(model, short, iter([t] * 5))
    each = backward / 5
    say("plain, one product at a time", each * size.d, size.d, each)
    seconds, truth = timed(lambda: batched(model, short, [(t, unit) for unit in torch.eye(size.d)]))
    say("batched", seconds, size.d, each)
    with np.errstate(divide="ignore"):
        norms = 0.5 * np.log(np.exp(2 * truth).sum(0))
    for method in ("autograd", "auto"):
        asked = {"method": method, "memory": memory}
        seconds, ds = timed(lambda asked=asked: depprobe.jacobian(model, short, **asked))
        say(f"depprobe, {ds.method}", seconds, size.d, each)
        apart = np.abs(ds["log_norm"].values[0] - norms)
        print(f"    largest difference to batched in ln norm {np.nanmax(apart):.1e}")


def depths(model: nn.Module, ids: Tensor, size: Size, memory: str) -> None:
    """Every block as denominator in one call beside the first alone; as numerator beside the sum of all."""
    few = ids[: size.row_n]
    narrow = model_of(size._replace(d=size.d // 8, heads=size.heads // 4))
    print(f"every depth: n = {size.row_n}")
    for method in ("probes", "auto"):
        asked: dict[str, Any] = {"method": method, "memory": memory}
        # a row of one product a target, or of a whole block for fewer targets of a narrower model
        asked |= {"targets": "random:8", "probes": 1} if method == "probes" else {"targets": "last"}
        call = partial(depprobe.jacobian, model if method == "probes" else narrow, few, **asked)
        one, every = (timed(partial(call, wrt=wrt))[0] for wrt in ("h.0", "h.*"))
        singly = sum(timed(partial(call, of=f"h.{i}"))[0] for i in range(size.layers))
        together, _ = timed(partial(call, of="h.*"))
        print(
            f"  {method:8} wrt h.0 {one:7.2f} s, wrt h.* {every:7.2f} s, ratio {every / one:.2f};  "
            f"of each {singly:7.2f} s, of h.* {together:7.2f} s, ratio {together / singly:.2f}",
            flush=True,
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="a small model, to try the script")
    parser.add_argument("--memory", default="4GiB", help="budget of depprobe")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=("curve", "row", "depths"), help="one part of it")
    given = parser.parse_args()
    parse_bytes(given.memory)
    torch.set_num_threads(given.threads)
    size = SMALL if given.small else FULL
    model = model_of(size)
    ids = torch.randint(0, VOCABULARY, (size.n,), generator=torch.Generator().manual_seed(1))
    for method in ("probes", "auto"):  # what loads at the first call is no part of it
        depprobe.jacobian(model, ids[:9], method=method)
    for part in (curve, row, depths):
        if given.only in (None, part.__name__):
            part(model, ids, size, given.memory)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"peak resident memory of the process {peak / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
