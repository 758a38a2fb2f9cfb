r"""A linear map of known blocks, and random probes of it. No module runs, so hundreds of seeds cost little.

    J[t,k] = e^{-lag/10 + 0.3 z} B / |B|_F,   lag = t - k >= 0,   z ~ N(0, 1),   B (d, d)

B of rank one, rank three (singular values 1, .7, .5), or full (Gaussian entries), unlike ones at every lag;
or the blocks of a GRU, whose far lags come through the same few directions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from depprobe.core.options import Options
from depprobe.operators.autograd.probes import ProbedJacobian
from depprobe.operators.autograd.products import Gathered

KINDS = ("rank one", "rank three", "full", "GRU")


def known_blocks(kind: str, n: int, d: int) -> Tensor:
    """Blocks (n, n, d, d), float64."""
    if kind == "GRU":
        torch.manual_seed(0)
        module, x = torch.nn.GRU(d, d).double(), torch.randn(n, d, dtype=torch.float64)
        rows = torch.autograd.functional.jacobian(lambda z: module(z)[0], x, vectorize=True)
        return rows.transpose(1, 2).contiguous()
    rng = np.random.default_rng([n, d, KINDS.index(kind)])
    found = rng.standard_normal((n, n, d, d))
    if kind != "full":
        weights = np.array([1.0, 0.7, 0.5])[: 1 if kind == "rank one" else 3]
        u, _, v = np.linalg.svd(found)
        found = (u[..., : len(weights)] * weights) @ v[..., : len(weights), :]
    found /= np.linalg.norm(found, axis=(2, 3), keepdims=True)
    lag = np.subtract.outer(np.arange(n), np.arange(n))
    height = np.where(lag >= 0, np.exp(-0.1 * lag + 0.3 * rng.standard_normal((n, n))), 0.0)
    return torch.from_numpy(found * height[:, :, None, None])


class _Products:
    """What ``operators.autograd.products.Products`` gives of a recorded pass."""

    def __init__(self, blocks: Tensor) -> None:
        self._blocks, self.narrowest = blocks, blocks.dtype

    def row(self, t: int, cotangents: Tensor) -> Iterator[Tensor]:
        yield torch.einsum("mi,kij->mkj", cotangents, self._blocks[t])

    def rows(self, at: Sequence[int], vectors: Tensor, repeat: object = None) -> Iterator[Tensor]:
        for t, vector in zip(at, vectors, strict=True):
            yield torch.einsum("i,kij->kj", vector, self._blocks[t])

    def gathered(
        self,
        targets: Sequence[int],
        cotangents: Tensor,
        columns: NDArray[np.int64],
        most: int = 0,
        summed: bool = False,
    ) -> list[Gathered]:
        every = [Gathered(columns, most, summed) for _ in targets]
        for found, t, rows in zip(every, targets, cotangents, strict=True):
            for part in self.row(t, rows):
                found.add(part)
        return every

    def make_room(self) -> None:
        """Nothing is recorded."""

    def up_to(self, targets: Sequence[int]) -> AbstractContextManager[None]:
        return nullcontext()

    def structure(self, t: int) -> NDArray[np.bool_] | None:
        return self.reaches(t)

    def reaches(self, t: int) -> NDArray[np.bool_]:
        return self._blocks[t].ne(0).any(2).any(1).numpy()


def probed(blocks: Tensor, probes: int, seed: int) -> ProbedJacobian:
    """Known blocks (n, n, d, d) behind the operator that probes modules."""
    n, _, d, _ = blocks.shape
    y, position = torch.zeros(n, d, dtype=blocks.dtype), np.arange(n, dtype=np.float64)
    function: Any = SimpleNamespace(x=y, y=y, shape=(n, d, n, d), wrt="x", position=position, given=b"")
    function.record, function.held = lambda *given: None, nullcontext
    products: Any = _Products(blocks)
    return ProbedJacobian(function, Options(method="probes", probes=probes, seed=seed), products)


def exact(blocks: Tensor) -> xr.Dataset:
    """ln of the norms at all targets."""
    return curve(torch.linalg.matrix_norm(blocks).log().numpy(), np.arange(len(blocks)))


def curve(log_norm: NDArray[np.float64], targets: NDArray[np.int64], **beside: NDArray) -> xr.Dataset:
    """A Jacobian dataset of (targets, sources) as ``distances`` takes it."""
    found = {
        name: (("target", "source"), values) for name, values in {"log_norm": log_norm, **beside}.items()
    }
    n = log_norm.shape[1]
    coords = {"target": targets, "position": ("target", targets.astype(float)), "source": np.arange(n)}
    return xr.Dataset(found, coords, {"n": n})
