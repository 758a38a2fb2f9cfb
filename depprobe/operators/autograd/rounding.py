r"""What rounding did to rows by automatic differentiation, estimated from a repeat.

    g_k = v^T J[t,k],    g'_k the same of a cotangent c v, over c, c = 1.37..., all inputs and
    results z of the forward pass being z (1 + eps s), s = +-1

    |Delta J|_F / |J|_F  ~  F |g'_k - g_k| / |J[t,k]|_F,    v ~ N(0, I)

c is no power of two, so every product on the way back is rounded anew; where derivatives are read off
rounded states (1 - y^2 of a saturated unit) their last bits show it. The differences of neighbouring
sources are pooled, and none is taken to be less than what it came to at nearer lags, up to ten times
itself: one alone may vanish by chance, and where one number after another is rounded the difference
wanders, for many lags about zero. Where they are large, two more repeats follow, since one rounding may
have gone into all of them, as they do where an input is a single number. Rows of some targets stand for the
others, lag by lag, but for those in which a norm lies so far below where it lies in such a row that it may
be what rounding left of larger ones, and those that keep digits where such a row has lost all: these are
repeated three times. Beyond the lags of any, errors are taken to grow in proportion to the lag, or as they
do over the farther half of known lags, whichever is more: where norms fall to what is left of larger ones,
the errors grow as fast as they fall.
Source: Parker 1997 (Monte Carlo arithmetic).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import median_filter
from torch import Tensor

from depprobe.core.scaled import Scaled, added
from depprobe.operators.autograd import fisher
from depprobe.operators.known_lags import carried, telling
from depprobe.operators.last_bits import Repeat

Floats = NDArray[np.float64]

#: how far an estimate is taken above the spread that a repeat shows, for 95 %
_FACTOR = 2.5
#: estimated error from which nothing is said of a norm: where all is rounding, it may come out at half a nat
LOST = 0.5
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
#: relative difference from which one repeat does not settle an error: one number may have gone into all of it
_UNSETTLED = 0.01
#: error from which a row must not stand for another
_TOLD = 1e-3
#: by how much a norm may lie higher or lower in rows that are alike: nats, and a share of how far down it is
_ALIKE, _ALIKE_SHARE = 5.0, 0.1
#: numbers of an input below which they say too little of their spread to settle an error
_FEW = 2


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

    def under(self, repeat: Repeat, cotangent: Tensor) -> Tensor | Scaled:
        """One product of a pass whose numbers are changed."""


class Rounding:
    """Repeats of products of one function, some of its targets' standing for the others."""

    def __init__(self, function: Differentiated, products: RowProducts, norm: str = "fro") -> None:
        self._function, self._products, self._norm = function, products, norm
        self._done = 0
        self._begun: set[int] = set()
        self.known: dict[int, tuple[NDArray[np.int64], Floats]] = {}
        #: how far norms of those rows lie below the largest, lag by lag
        self._depths: dict[int, Floats] = {}

    def state(self) -> dict[str, NDArray[Any]]:
        """What is known, as arrays."""
        found = {"done": np.array(self._done), "begun": np.array(sorted(self._begun), dtype=np.int64)}
        for t, (lags, relative) in self.known.items():
            found |= {f"{t}.lags": lags, f"{t}.relative": relative, f"{t}.depth": self._depths[t]}
        return found

    def resume(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take up what was known."""
        self._done, self._begun = int(state["done"]), set(state["begun"].tolist())
        named = [name.removesuffix(".lags") for name in state if name.endswith(".lags")]
        self.known = {int(t): (state[f"{t}.lags"], state[f"{t}.relative"]) for t in named}
        self._depths = {int(t): state[f"{t}.depth"] for t in named}

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
        found = telling(ends, [lags for lags, _ in self.known.values()], reach)
        every = max(EVERY, _PRODUCTS // products)
        late = not found and len(self.known) * every < self._done
        return list(ends)[:1] if late else found

    def error(self, t: int, lags: NDArray[np.int64], log_norm: Floats) -> Floats:
        """Estimated error of the ln norms (n,) of row t (NaN: not asked for) at lags (n,)."""
        for mix in self.begin([t]).values() if np.isfinite(log_norm).any() else ():
            self.note(t, lags, log_norm, mix)
        return self.judged(t, lags, log_norm)

    def judged(self, t: int, lags: NDArray[np.int64], log_norm: Floats) -> Floats:
        """The same from the rows that were repeated; a row that is unlike them is repeated too."""
        known = np.isfinite(log_norm)
        if self.known and t not in self._begun and not self._represented(t, lags, _depth(log_norm)):
            self.note(t, lags, log_norm, self._drawn(t), settled=False)
        return self.stated(t, lags, known)

    def _represented(self, t: int, lags: NDArray[np.int64], depth: Floats) -> bool:
        """Whether errors of row t (n,) are those of the rows that stand for it."""
        limit = max(_ALIKE, float(np.log(_TOLD / torch.finfo(self._products.narrowest).eps)))
        for side in (lags >= 0, lags < 0):
            side &= np.isfinite(depth)
            if not side.any():
                continue
            known, relative = self.known[(at := self._nearest(t, lags[side]))]
            # lags descend one by one
            place = known[0] - lags[side]
            seen = (place >= 0) & (place < len(known))
            place, own = place[seen], depth[side][seen]
            other = self._depths[at][place]
            below = own - np.where(np.isfinite(other), other, 0.0)
            spoiled = (relative[place] >= LOST) & (below < -_ALIKE)
            if (spoiled | (below > limit + _ALIKE_SHARE * own)).any():
                return False
        return True

    def _nearest(self, t: int, lags: NDArray[np.int64]) -> int:
        """The nearest row that was repeated among those that reach as far as some lags."""
        low, high = lags.min(initial=0), lags.max(initial=0)
        inside = [at for at, (known, _) in self.known.items() if known.min() <= low <= high <= known.max()]
        return min(inside or self.known, key=lambda known: abs(known - t))

    def offer(self, t: int, lags: NDArray[np.int64], log_norm: Floats) -> None:
        """A row that costs less than its repeat: of those offered the 1st, 4th, 16th, ... is repeated."""
        self._done += 1
        if self._done >= 4 ** len(self._begun) and t not in self._begun:
            self.note(t, lags, log_norm, self._drawn(t))

    def stated(self, t: int, lags: NDArray[np.int64], some: NDArray[np.bool_] | None = None) -> Floats:
        """Estimated errors at lags (n,), of which ``some`` count: ahead and behind, from the nearest row that
        was repeated among those that reach as far; NaN where none could be.
        """
        found = np.full(len(lags), 0.0 if self.known else np.nan)
        some = np.ones(len(lags), dtype=bool) if some is None else some
        for side in (lags >= 0, lags < 0) if self.known else ():
            nearest = self._nearest(t, lags[side & some])
            found[side] = carried(lags[side], *self.known[nearest])
        return found + fisher.rounding(self._function.y[t]) if self._norm == fisher.NORM else found

    def _cotangent(self, t: int, mix: Tensor) -> Tensor:
        y = self._function.y
        cotangent = torch.zeros_like(y)
        cotangent[t] = mix
        if self._norm == fisher.NORM:
            cotangent[t] = fisher.weighed(cotangent[None, t], y[t])[0]
        return cotangent

    def _apart(self, t: int, mix: Tensor, first: Scaled, draw: int) -> Floats:
        """ln of how far a repeat is from the row (n,)."""
        scale = _SCALES[draw]
        again = _scaled(self._products.under(REPEATS[draw], scale * self._cotangent(t, mix)))
        gap = added(Scaled(again.values / scale, again.log_scale), Scaled(-first.values, first.log_scale))
        return np.asarray(gap.log_norm(1).cpu())

    def note(
        self,
        t: int,
        lags: NDArray[np.int64],
        log_norm: Floats,
        mix: Tensor,
        first: Scaled | None = None,
        settled: bool = True,
    ) -> None:
        """Repeat a row, of which ``first`` may be known; both may end where nothing stands behind.

        One repeat may do unless ``settled`` is false.
        """
        first = _scaled(self._products.single(self._cotangent(t, mix))) if first is None else first
        own = first.log_norm(1).cpu().numpy()
        missing = (0, len(log_norm) - len(own))
        own = np.pad(own, missing, constant_values=-np.inf)
        log_norm = np.where(np.isnan(log_norm), own, log_norm)

        def relative_to_norms(apart: Floats) -> Floats:
            with np.errstate(invalid="ignore"):
                padded = np.pad(apart, missing, constant_values=-np.inf)
                return np.exp(np.minimum(padded - log_norm, 50.0))

        relative = relative_to_norms(self._apart(t, mix, first, 0))
        # where norms are finite and this row underflowed, each time, it tells nothing
        seen = np.isfinite(relative) & np.isfinite(log_norm) & (np.isfinite(own) | (relative > 0))
        settled &= first.values.shape[-1] >= _FEW and not (relative[seen] > _UNSETTLED).any()
        if not settled:
            others = [relative_to_norms(self._apart(t, mix, first, i)) for i in range(1, len(REPEATS))]
            relative = np.sqrt(np.mean(np.square([relative, *others]), axis=0))
        relative = np.where(seen, relative, 0.0)
        window = np.ones(2 * _BESIDE + 1)
        # "same" would be as long as the window where that is the longer
        total, count = (
            np.convolve(one, window)[_BESIDE : _BESIDE + len(seen)] for one in (relative**2, seen)
        )
        # one block that is lost must not spoil those beside it
        grown = _grown(lags, relative, seen)
        pooled = np.minimum(np.maximum(np.sqrt(total / np.maximum(count, 1)), grown), _SPOILED * relative)
        eps = torch.finfo(self._products.narrowest).eps
        found = _FACTOR * np.maximum(pooled, relative) + eps
        if not seen.any():
            self._begun.discard(t)  # another one may tell
            return
        # where the row is zero (padding, say) it tells nothing of others that are not
        found = np.where(seen, found, carried(lags, lags[seen], found[seen]))
        self.known[t], self._depths[t] = (lags, found), _depth(log_norm)


def _depth(log_norm: Floats) -> Floats:
    """How far below the largest norm of a row each lies, in nats; infinite where it is zero or not known."""
    known = np.isfinite(log_norm)
    found = np.full(len(log_norm), np.inf)
    found[known] = log_norm[known].max(initial=-np.inf) - log_norm[known]
    return found


def _grown(lags: NDArray[np.int64], relative: Floats, seen: NDArray[np.bool_]) -> Floats:
    """The most that errors came to between lag 0 and each lag, but for single ones that stand out."""
    most = np.zeros(len(lags))
    for side in (lags >= 0, lags < 0):
        (here,) = np.nonzero(side & seen)
        here = here[np.argsort(np.abs(lags[here]), kind="stable")]
        if len(here):
            most[here] = np.maximum.accumulate(median_filter(relative[here], 2 * _BESIDE + 1, mode="nearest"))
    return most


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
