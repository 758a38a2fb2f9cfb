r"""What rounding did to rows by automatic differentiation, estimated from a repeat.

    g_k = v^T J[t,k],    g'_k the same of a cotangent c v, over c, c = 1.37..., all inputs and
    results z of the forward pass being z (1 + eps s), s = +-1

    |Delta J|_F / |J|_F  ~  F |g'_k - g_k| / |J[t,k]|_F,    v ~ N(0, I)

c is no power of two, so every product on the way back is rounded anew; where derivatives are read off rounded
states (1 - y^2 of a saturated unit) their last bits show it. The differences of neighbouring sources are
pooled: one alone may vanish by chance. Rows of some targets stand for the others, lag by lag; beyond the lags
of any, errors are taken to grow in proportion to the lag, or as they do over the farther half of known lags,
whichever is more: where norms fall to what is left of larger ones, the errors grow as fast as they fall.
Source: Parker 1997 (Monte Carlo arithmetic).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depprobe.core.calling.environment import WatchingMode
from depprobe.core.scaled import Scaled, added
from depprobe.operators.autograd import fisher

Floats = NDArray[np.float64]

#: how far an estimate is taken above the spread that a repeat shows, for 95 %
_FACTOR = 2.5
#: a factor with a full mantissa
_SCALE = 1.3728813559322035
#: sources to either side that are pooled
_BESIDE = 2
#: ratio by which neighbours may raise an estimate
_SPOILED = 10.0
#: random signs that serve all numbers in turn
_POOL = 1 << 16
#: targets, the first of which is repeated and stands for the others, lag by lag
_EVERY = 7
#: products of which a repeat may be one; and how many times farther rows reach, before another is repeated
_PRODUCTS, _FARTHER = 50, 3
#: a row is one of the farthest if it reaches so far, as a share of what any can
_LAST = 0.9
#: ln of the most that errors are taken to grow beyond known lags
_MOST_GROWTH = 50.0


#: operations that pick from the numbers they are given, with which their results are to compare equal
_PICK = frozenset({"topk", "sort", "kthvalue", "median", "max", "min", "amax", "amin", "cummax", "cummin"})


class _LastBits(WatchingMode):
    """Changes the last bit of every floating number that an operation makes while it is on."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self._signs = torch.randn(_POOL, generator=draw, dtype=torch.float64, device="cpu").sign()
        self._factors: dict[tuple[torch.dtype, torch.device], Tensor] = {}
        self._start = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view and func.overloadpacket.__name__ not in _PICK:
            for made in _floating(out):
                if made.is_contiguous():
                    self._change(made)
                else:
                    made.copy_(self.changed(made))
        return out

    def changed(self, made: Tensor) -> Tensor:
        """The same with the last bits changed."""
        return self._change(made.clone(memory_format=torch.contiguous_format))

    def _change(self, made: Tensor) -> Tensor:
        """In place, without a copy of what may be large."""
        kind = made.dtype, made.device
        if kind not in self._factors:
            signs = self._signs.to(device=made.device)
            self._factors[kind] = (1 + torch.finfo(made.dtype).eps * signs).to(made.dtype)
        self._start = (self._start + 7919) % _POOL
        numbers, start = made.view(-1), self._start
        for part in (numbers[: _POOL - start], *numbers[_POOL - start :].split(_POOL)):
            part.mul_(self._factors[kind][start : start + len(part)])
            start = 0
        return made


def _floating(out: Any) -> Iterator[Tensor]:
    """Tensors of floating numbers among the results of an operation, nested ones in parts."""
    if isinstance(out, (tuple, list)):
        for one in out:
            yield from _floating(one)
    # zeros of torch.func have no memory, and end the process if they are changed
    elif isinstance(out, Tensor) and out.is_floating_point() and out.numel() and not out._is_zerotensor():
        yield from out.unbind() if out.is_nested else (out,)


class Differentiated(Protocol):
    """What has outputs y (n_out, d_out)."""

    @property
    def y(self) -> Tensor:
        """The outputs, whose dtype and device the cotangents take."""


class RowProducts(Protocol):
    """Products with one cotangent, in plain numbers or with exponents; see ``Products``."""

    narrowest: torch.dtype

    def single(self, cotangent: Tensor) -> Tensor | Scaled:
        """One product."""

    def under(self, noise: Callable[[], Any], cotangent: Tensor) -> Tensor | Scaled:
        """One product of a pass under a mode that changes numbers."""


class Rounding:
    """Repeats of products of one function, some of its targets' standing for the others."""

    def __init__(self, function: Differentiated, products: RowProducts, norm: str = "fro") -> None:
        self._function, self._products, self._norm = function, products, norm
        self._done = 0
        self._begun: set[int] = set()
        self._known: dict[int, tuple[NDArray[np.int64], Floats]] = {}

    def state(self) -> dict[str, NDArray[Any]]:
        """What is known, as arrays."""
        found = {"done": np.array(self._done), "begun": np.array(sorted(self._begun), dtype=np.int64)}
        for t, (lags, relative) in self._known.items():
            found |= {f"{t}.lags": lags, f"{t}.relative": relative}
        return found

    def resume(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take up what was known."""
        self._done, self._begun = int(state["done"]), set(state["begun"].tolist())
        named = [name.removesuffix(".lags") for name in state if name.endswith(".lags")]
        self._known = {int(t): (state[f"{t}.lags"], state[f"{t}.relative"]) for t in named}

    def begin(self, t: int) -> Tensor | None:
        """Weights of output units (d_out,) whose sum of rows at t is to be repeated; None where others stand
        for it.
        """
        self._done += 1
        if len(self._begun) * _EVERY >= self._done or t in self._begun:
            return None
        return self._drawn(t)

    def _drawn(self, t: int) -> Tensor:
        self._begun.add(t)
        draw = torch.Generator().manual_seed(t)
        y = self._function.y
        return torch.randn(y.shape[1], generator=draw, dtype=torch.float64, device="cpu").to(y)

    def due(
        self, ends: Mapping[int, NDArray[np.int64]], targets: int, products: int, reach: tuple[int, int]
    ) -> list[int]:
        """Which of some rows, given by their lags, are to be repeated: what is far, or the first of many."""
        self._done += targets
        found = telling(ends, [lags for lags, _ in self._known.values()], reach)
        every = max(_EVERY, _PRODUCTS // products)
        late = not found and len(self._known) * every < self._done
        return list(ends)[:1] if late else found

    def error(self, t: int, lags: NDArray[np.int64], log_norm: Floats) -> Floats:
        """Estimated error of the ln norms (n,) of row t (NaN: not asked for) at lags (n,)."""
        mix = self.begin(t)
        if mix is not None:
            self._repeat(t, lags, log_norm, mix)
        return self.stated(t, lags)

    def offer(self, t: int, lags: NDArray[np.int64], log_norm: Floats) -> None:
        """A row that costs less than its repeat: of those offered the 1st, 4th, 16th, ... is repeated."""
        self._done += 1
        if self._done >= 4 ** len(self._begun) and t not in self._begun:
            self._repeat(t, lags, log_norm, self._drawn(t))

    def _repeat(self, t: int, lags: NDArray[np.int64], log_norm: Floats, mix: Tensor) -> None:
        self.note(t, lags, log_norm, mix, _scaled(self._products.single(self._cotangent(t, mix))))

    def stated(self, t: int, lags: NDArray[np.int64]) -> Floats:
        """Estimated errors at lags (n,), from the nearest row that was repeated."""
        inside = [at for at, (known, _) in self._known.items() if (beyond(lags, known) == 1).all()]
        nearest = min(inside or self._known, key=lambda known: abs(known - t))
        known, relative = self._known[nearest]
        found = _carried(lags, known, relative)
        return found + fisher.rounding(self._function.y[t]) if self._norm == fisher.NORM else found

    def _cotangent(self, t: int, mix: Tensor) -> Tensor:
        y = self._function.y
        cotangent = torch.zeros_like(y)
        cotangent[t] = mix
        if self._norm == fisher.NORM:
            cotangent[t] = fisher.weighed(cotangent[None, t], y[t])[0]
        return cotangent

    def note(self, t: int, lags: NDArray[np.int64], log_norm: Floats, mix: Tensor, first: Scaled) -> None:
        """Repeat a row, of which ``first`` is known; both may end where nothing stands behind."""
        again = _scaled(self._products.under(_LastBits, _SCALE * self._cotangent(t, mix)))
        gap = added(Scaled(again.values / _SCALE, again.log_scale), Scaled(-first.values, first.log_scale))
        apart, own = (part.log_norm(1).cpu().numpy() for part in (gap, first))
        missing = (0, len(log_norm) - len(own))
        apart, own = (np.pad(part, missing, constant_values=-np.inf) for part in (apart, own))
        log_norm = np.where(np.isnan(log_norm), own, log_norm)
        with np.errstate(invalid="ignore"):
            relative = np.exp(np.minimum(apart - log_norm, 50.0))
        seen = np.isfinite(relative) & np.isfinite(log_norm)
        relative = np.where(seen, relative, 0.0)
        window = np.ones(2 * _BESIDE + 1)
        # "same" would be as long as the window where that is the longer
        total, count = (
            np.convolve(one, window)[_BESIDE : _BESIDE + len(seen)] for one in (relative**2, seen)
        )
        # one block that is lost must not spoil those beside it
        pooled = np.minimum(np.sqrt(total / np.maximum(count, 1)), _SPOILED * relative)
        eps = torch.finfo(self._products.narrowest).eps
        found = _FACTOR * np.maximum(pooled, relative) + eps
        if seen.any():
            # where the row is zero (padding, say) it tells nothing of others that are not
            found = np.where(seen, found, _carried(lags, lags[seen], found[seen]))
        self._known[t] = lags, found


def states_of(each: Mapping[str, Rounding]) -> dict[str, NDArray[Any]]:
    """What is known of each norm, by the norm's name."""
    return {f"{norm}/{name}": value for norm, one in each.items() for name, value in one.state().items()}


def resume_each(each: Mapping[str, Rounding], state: Mapping[str, NDArray[Any]]) -> None:
    """Take up what was known of each norm."""
    for norm, one in each.items():
        mine = {name: value for name, value in state.items() if name.startswith(f"{norm}/")}
        one.resume({name.removeprefix(f"{norm}/"): value for name, value in mine.items()})


def beyond(lags: NDArray[np.int64], known: NDArray[np.int64]) -> Floats:
    """How many times farther than all known lags each lag is, (n,); 1 within.

    Examples
    --------
    >>> beyond(np.array([6, 2, -1]), np.array([3, 0, -2])).tolist()
    [2.0, 1.0, 1.0]
    """
    ahead, behind = max(1, int(known.max())), min(-1, int(known.min()))
    return np.maximum(np.where(lags > 0, lags / ahead, lags / behind), 1.0)


def _carried(lags: NDArray[np.int64], known: NDArray[np.int64], relative: Floats) -> Floats:
    """Errors at lags (n,) from those at known lags, which descend."""
    return np.interp(lags, known[::-1], relative[::-1]) * _growth(lags, known, relative)


def _growth(lags: NDArray[np.int64], known: NDArray[np.int64], relative: Floats) -> Floats:
    """By what errors (n,) at lags beyond all known ones exceed those of the last of these; 1 within."""
    found = beyond(lags, known)
    for side in (1, -1):
        edge = int((side * known).max())
        half = side * known > edge / 2
        past = side * lags - edge
        if edge > 0 and half.sum() > 2 and (past > 0).any():
            slope = np.polyfit(side * known[half], np.log(relative[half]), 1)[0]
            found = np.maximum(found, np.exp(np.clip(slope * past.clip(0), 0, _MOST_GROWTH)))
    return found


def telling(
    ends: Mapping[int, NDArray[np.int64]], known: Sequence[NDArray[np.int64]], reach: tuple[int, int]
) -> list[int]:
    """Which of some rows, given by their lags, tell of lags that known ones and the rows before them do not.

    Those that reach far beyond, and one of the farthest that there are, ``reach`` being the largest and the
    smallest lag of any row.

    Examples
    --------
    >>> telling({5: np.arange(9), 4: np.arange(8), 0: -np.arange(9)}, [np.arange(2)], (99, -99))
    [5, 0]
    >>> [telling({9: np.arange(9)}, [np.arange(5)], reach) for reach in [(8, 0), (99, 0)]]
    [[9], []]
    """
    found, lags = [], list(known)
    ahead, behind = reach
    for t, own in ends.items():
        past = float(beyond(own, np.concatenate(lags)).max()) if lags else math.inf
        last = own.max() >= _LAST * ahead > 0 or own.min() <= _LAST * behind < 0
        if past > _FARTHER or (last and past > 1 / _LAST):
            found.append(t)
            lags.append(own)
    return found


def _scaled(found: Tensor | Scaled) -> Scaled:
    return Scaled.plain(found) if isinstance(found, Tensor) else found
