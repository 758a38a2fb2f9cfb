r"""What rounding did to rows by automatic differentiation, estimated from a repeat.

    g_k = v^T J[t,k],    g'_k the same of a cotangent c v, over c, c = 1.37..., all inputs and
    results z of the forward pass being z (1 + eps s), s = +-1

    |Delta J|_F / |J|_F  ~  F |g'_k - g_k| / |J[t,k]|_F,    v ~ N(0, I)

c is no power of two, so every product on the way back is rounded anew; where derivatives are read off
rounded states (1 - y^2 of a saturated unit) their last bits show it. The differences of neighbouring
sources are pooled, and none is taken to be less than what it came to at nearer lags, up to ten times
itself: one alone may vanish by chance, and where one number after another is rounded the difference
wanders, for many lags about zero. Where digits are lost, two more repeats follow, since one rounding may
have gone into all of them, as they do where an input is a single number. Rows of some targets stand for the
others, lag by lag, unless digits are lost, which each row loses of its own, or a norm is so much smaller
than in such a row that it may be what rounding left of larger ones. Beyond the lags of any, errors
are taken to grow in proportion to the lag, or as they do over the farther half of known lags, whichever is
more: where norms fall to what is left of larger ones, the errors grow as fast as they fall.
Source: Parker 1997 (Monte Carlo arithmetic).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depprobe.core.scaled import Scaled, added
from depprobe.operators.autograd import fisher
from depprobe.operators.known_lags import Known, alike, carried, grown_with, telling
from depprobe.operators.last_bits import Repeat

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: how far an estimate is taken above the spread that a repeat shows, for 95 %
_FACTOR = 2.5
#: factors with a full mantissa: of a repeat, and of those that follow where it does not settle an error
_SCALES = (1.3728813559322035, 1.7320508075688772, 1.1892071150027210)
#: sources to either side that are pooled
_BESIDE = 2
#: ratio by which neighbours may raise an estimate
_SPOILED = 10.0
#: targets, the last of which is repeated and stands for the others, lag by lag
EVERY = 7
#: how many times later a row is, for it to be repeated all the same
_LATER = 2
#: products of which a repeat may be one
_PRODUCTS = 50
#: relative difference, over machine epsilon, from which digits are lost: one repeat does not settle the error
_LOSSY = 100.0
#: stated error from which random rows are repeated one by one, as far as what they leave out
_SPOILED_ROWS = 0.01
#: error from which a row must not stand for another
_TOLD = 1e-4
#: numbers of an input below which they say too little of their spread to settle an error
_FEW = 2


class Differentiated(Protocol):
    """What has outputs y (n_out, d_out)."""

    @property
    def y(self) -> Tensor:
        """The outputs, whose dtype and device the cotangents take."""


class RowProducts(Protocol):
    """What takes products with cotangents, in plain numbers or with exponents; see ``Products``."""

    narrowest: torch.dtype

    def rows(
        self, at: Sequence[int], vectors: Tensor, repeat: Repeat | None = None
    ) -> Iterable[Tensor | Scaled]:
        """Products (n_in, d_in) with vectors (m, d_out) on positions ``at`` (m,), in turn; of a pass whose
        numbers ``repeat`` changes, if it is given.
        """


class Row(NamedTuple):
    """A row that is to be repeated, by its target t.

    Attributes
    ----------
    lags, log_norm : of its blocks (n,).
    mix : weights of the output units (d_out,).
    first : the row by these weights, where it is known.
    """

    t: int
    lags: Ints
    log_norm: Floats
    mix: Tensor
    first: Scaled | None = None


class Rounding:
    """Repeats of products of one function, some of its targets' standing for the others."""

    def __init__(self, function: Differentiated, products: RowProducts, norm: str = "fro") -> None:
        self._function, self._products, self._norm = function, products, norm
        self._done = 0
        self._begun: set[int] = set()
        #: the largest error that was stated of a row
        self._worst = 0.0
        self.known: dict[int, Known] = {}

    def state(self) -> dict[str, NDArray[Any]]:
        """What is known, as arrays."""
        found = {"done": np.array(self._done), "begun": np.array(sorted(self._begun), dtype=np.int64)}
        for t, known in self.known.items():
            found |= {f"{t}.{name}": value for name, value in known._asdict().items()}
        return found

    def resume(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take up what was known."""
        self._done, self._begun = int(state["done"]), set(state["begun"].tolist())
        named = [name.removesuffix(".lags") for name in state if name.endswith(".lags")]
        for t in named:
            self._hold(int(t), Known(*(state[f"{t}.{name}"] for name in Known._fields)))

    def begin(self, group: Sequence[int]) -> dict[int, Tensor]:
        """Weights of output units (d_out,), whose sums of rows are to be repeated, for some of these targets.

        The last of them, which has all lags of a causal model, every seventh before it, and the first of all.
        """
        self._done += len(group)
        wanted = -(-self._done // EVERY) - len(self._begun)
        later = group[-1] + 1 >= _LATER * (max(self._begun, default=-1) + 1)
        earlier = group[0] < min(self._begun, default=group[0] + 1)
        chosen = [*group[::-EVERY][: max(wanted, later)], *group[: int(earlier)]]
        return {t: self._drawn(t) for t in chosen if t not in self._begun}

    @property
    def _lossy(self) -> float:
        return _LOSSY * torch.finfo(self._products.narrowest).eps

    @property
    def is_spoiled(self) -> bool:
        """Whether a row was off by as much as random rows are."""
        return self._worst > _SPOILED_ROWS

    def rest(self, rows: Mapping[int, tuple[Ints, Floats]], each: bool = True) -> dict[int, Tensor]:
        """The same for rows, given by their lags and ln norms (n,), that no others stand for: those that are
        unlike them, and all, if ``each``, where each loses digits of its own.
        """
        lossy = each and self._worst > _FACTOR * self._lossy
        own = {t: row for t, row in rows.items() if t not in self._begun and np.isfinite(row[1]).any()}
        return {t: self._drawn(t) for t, row in own.items() if lossy or not self._represented(t, *row)}

    def _represented(self, t: int, lags: Ints, log_norm: Floats) -> bool:
        """Whether the rows that were repeated stand for row t, by its lags and ln norms (n,)."""
        limit = float(np.log(_TOLD / torch.finfo(self._products.narrowest).eps))
        for side in (lags >= 0, lags < 0) if self.known else ():
            side &= np.isfinite(log_norm)
            own, known = lags[side], self.known[self._nearest(t, lags[side])]
            if side.any() and not alike(own, log_norm[side], known, limit):
                return False
        return True

    def _nearest(self, t: int, lags: Ints) -> int:
        """The nearest row that was repeated among those that reach as far as some lags."""
        if t in self.known:
            return t
        low, high = lags.min(initial=0), lags.max(initial=0)
        inside = [at for at, (own, *_) in self.known.items() if own[-1] <= low <= high <= own[0]]
        return min(inside or self.known, key=lambda known: abs(known - t))

    def _drawn(self, t: int) -> Tensor:
        self._begun.add(t)
        draw = torch.Generator().manual_seed(t)
        y = self._function.y
        return torch.randn(y.shape[1], generator=draw, dtype=torch.float64, device="cpu").to(y)

    def due(self, ends: Mapping[int, Ints], targets: int, products: int, reach: tuple[int, int]) -> list[int]:
        """Which of some rows, given by their lags, are to be repeated: what is far, or the first of many."""
        self._done += targets
        found = telling(ends, [known.lags for known in self.known.values()], reach)
        every = max(EVERY, _PRODUCTS // products)
        late = not found and len(self.known) * every < self._done
        return list(ends)[:1] if late else found

    def offer(self, t: int, lags: Ints, log_norm: Floats) -> None:
        """A row that costs less than its repeat: of those offered the 1st, 4th, 16th, ... is repeated."""
        self._done += 1
        if self._done >= 4 ** len(self._begun) and t not in self._begun:
            self.note([Row(t, lags, log_norm, self._drawn(t))])

    def stated(self, t: int, lags: Ints, some: NDArray[np.bool_] | None = None) -> Floats:
        """Estimated errors at lags (n,), of which ``some`` count: ahead and behind, from the nearest row that
        was repeated among those that reach as far; NaN where none could be.
        """
        found = np.full(len(lags), 0.0 if self.known else np.nan)
        some = np.ones(len(lags), dtype=bool) if some is None else some
        for side in (lags >= 0, lags < 0) if self.known else ():
            nearest = self._nearest(t, lags[side & some])
            found[side] = carried(lags[side], *self.known[nearest][:2])
        return found + fisher.rounding(self._function.y[t]) if self._norm == fisher.NORM else found

    def _products_of(self, rows: Sequence[Row], draw: int | None = None) -> Iterator[Scaled]:
        """Products of some rows, over what they are scaled by in a repeat."""
        if not rows:
            return
        y, at = self._function.y, [row.t for row in rows]
        vectors = torch.stack([row.mix for row in rows]).to(y)
        if self._norm == fisher.NORM:
            vectors = torch.cat([fisher.weighed(v[None], y[t]) for t, v in zip(at, vectors, strict=True)])
        if draw is None:
            yield from map(_scaled, self._products.rows(at, vectors))
            return
        scale = _SCALES[draw]
        for values, log_scale in map(_scaled, self._products.rows(at, scale * vectors, REPEATS[draw])):
            yield Scaled(values / scale, log_scale)

    def _repeated(self, rows: Sequence[Row], draw: int) -> Iterator[tuple[Row, Scaled, Scaled]]:
        """Each row, its sum and the repeat of that."""
        unknown = self._products_of([row for row in rows if row.first is None])
        for row, again in zip(rows, self._products_of(rows, draw), strict=True):
            yield row, next(unknown) if row.first is None else row.first, again

    def note(self, rows: Sequence[Row]) -> None:
        """Repeat some rows, which may end where nothing stands behind."""
        told: dict[int, list[Floats]] = {}
        seen: dict[int, NDArray[np.bool_]] = {}
        unsettled = []
        for row, first, again in self._repeated(rows, 0):
            told[row.t], own = [_apart(row, first, again)], _padded(first.log_norm(1), row)
            # where norms are finite and this row underflowed, each time, it tells nothing
            here = np.isfinite(told[row.t][0]) & ~np.isinf(row.log_norm)
            here &= np.isfinite(own) | (told[row.t][0] > 0)
            seen[row.t] = here
            if (told[row.t][0][here] > self._lossy).any() or first.values.shape[-1] < _FEW:
                unsettled.append(row)
        for draw in range(1, len(REPEATS)):
            for row, first, again in self._repeated(unsettled, draw):
                told[row.t].append(_apart(row, first, again))
        for row in rows:
            self._conclude(row, told[row.t], seen[row.t])

    def _conclude(self, row: Row, relative: Sequence[Floats], seen: NDArray[np.bool_]) -> None:
        """Hold what repeats (n,) of a row tell, relative to the norms, where they are seen."""
        if not seen.any():
            self._begun.discard(row.t)  # another one may tell
            return
        told = np.ma.masked_invalid(relative)  # a later repeat may tell nothing of a source
        spread = np.where(seen, np.sqrt(np.ma.mean(np.square(told), axis=0)).filled(0.0), 0.0)
        window = np.ones(2 * _BESIDE + 1)
        # "same" would be as long as the window where that is the longer
        total, count = (np.convolve(one, window)[_BESIDE : _BESIDE + len(seen)] for one in (spread**2, seen))
        # one block that is lost must not spoil those beside it
        grown = grown_with(row.lags, spread, seen)
        pooled = np.minimum(np.maximum(np.sqrt(total / np.maximum(count, 1)), grown), _SPOILED * spread)
        eps = torch.finfo(self._products.narrowest).eps
        found = _FACTOR * np.maximum(pooled, spread) + eps
        # where the row is zero (padding, say) it tells nothing of others that are not
        found = np.where(seen, found, carried(row.lags, row.lags[seen], found[seen]))
        self._hold(row.t, Known(row.lags, found, row.log_norm))

    def _hold(self, t: int, known: Known) -> None:
        self.known[t] = known
        self._worst = max(self._worst, float(known.relative.max()))


def _padded(log_norm: Tensor, row: Row) -> Floats:
    """ln norms of a row's first positions at all of its own, (n,)."""
    found = np.asarray(log_norm.cpu(), dtype=np.float64)
    return np.pad(found, (0, len(row.log_norm) - len(found)), constant_values=-np.inf)


def _apart(row: Row, first: Scaled, again: Scaled) -> Floats:
    """How far a repeat is from a row, relative to the norms (n,), or to the row where these are not known."""
    gap = added(again, Scaled(-first.values, first.log_scale))
    apart = _padded(gap.log_norm(1), row)
    with np.errstate(invalid="ignore"):
        norms = np.where(np.isnan(row.log_norm), _padded(first.log_norm(1), row), row.log_norm)
        return np.exp(np.minimum(apart - norms, 50.0))


#: changes of last bits, unrelated
REPEATS = tuple(map(Repeat, range(len(_SCALES))))


def states_of(each: Mapping[str, Rounding]) -> dict[str, NDArray[Any]]:
    """What is known of each norm, by the norm's name."""
    return {f"{norm}/{name}": value for norm, one in each.items() for name, value in one.state().items()}


def resume_each(each: Mapping[str, Rounding], state: Mapping[str, NDArray[Any]]) -> None:
    """Take up what was known of each norm."""
    for norm, one in each.items():
        mine = {name: value for name, value in state.items() if name.startswith(f"{norm}/")}
        one.resume({name.removeprefix(f"{norm}/"): value for name, value in mine.items()})


def _scaled(found: Tensor | Scaled) -> Scaled:
    return Scaled.plain(found) if isinstance(found, Tensor) else found
