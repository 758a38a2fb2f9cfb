r"""Distances of every layer of a Jacobian dataset, labelled, with standard errors and 95 % intervals.

What the numbers are: ``reach``; what a share is: ``pool``; the forms and their criterion: ``form``;
correlated residuals: ``noise``; what is drawn again: ``resample``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from depprobe.curves.align import REPEATS, Blocks, Ints, by_layer, over_layers
from depprobe.curves.form import FORMS, Fit
from depprobe.curves.names import of_each, one_setting
from depprobe.curves.noise import Slope
from depprobe.curves.pool import Curves, Units, collect, weigh
from depprobe.curves.reach import (
    best_form,
    dominance,
    fit_forms,
    numbers,
    rates_of,
    residuals,
    slope_of,
)
from depprobe.curves.resampling.intervals import (
    drawn_lags,
    drawn_units,
    generator,
    interval,
    mirrored,
    spread_factor,
    standard_error,
    target_runs,
)
from depprobe.curves.resampling.probes import drawn_probes
from depprobe.errors import BadInput, require_known
from depprobe.vocabulary import POOLINGS, RELATIVE_TO, describe

POWERS = (1, 2)
#: numbers that follow the curve over all lags, not each target's own shares
RATE = "decay_rate"
#: numbers that no distance bounds
UNBOUNDED = (RATE, "half_life", "threshold_lag")
#: numbers that are whole
WHOLE = ("effective_range", "receptive_field", "receptive_width", "threshold_lag")
#: fewest independent lags from which an interval is stated
FEWEST_LAGS = 20


@dataclass(frozen=True)
class Choices:
    """The options of ``distances``, checked."""

    power: int
    resamples: int
    seed: int
    threshold: float
    relative_to: str
    pooling: str
    skip_lags: int

    def __post_init__(self) -> None:
        if not isinstance(self.power, int | np.integer) or self.power not in POWERS:
            raise BadInput(f"power must be 1 or 2, the power of the norm in a share; got {self.power!r}")
        for name, least in (("resamples", 2), ("seed", 0), ("skip_lags", 0)):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < least:
                raise BadInput(f"{name} must be at least {least}; got {value!r}")
        if not isinstance(self.threshold, int | float) or not 0 < self.threshold < 1:
            fault = f"threshold must lie between 0 and 1, a fraction of a norm; got {self.threshold!r}"
            raise BadInput(fault)
        for name, known in (("relative_to", RELATIVE_TO), ("pooling", POOLINGS)):
            require_known(name, getattr(self, name), known)


def distances(
    ds: xr.Dataset | Sequence[xr.Dataset],
    power: int = 2,
    resamples: int = 200,
    seed: int = 0,
    *,
    threshold: float = 1e-6,
    relative_to: str = "peak",
    pooling: str = "rms",
    normalise: str = "none",
    skip_lags: int = 0,
    skip_first: int = 0,
) -> xr.Dataset:
    """Distances, decay and form of each layer of a Jacobian dataset, with 95 % intervals.

    Parameters
    ----------
    ds : Jacobian dataset, or several to be joined along ``layer``: ``log_norm`` over ``(target, source)`` or
        ``(target, lag)``, natural logs, with or without ``layer``, ``seed`` and ``sample`` before them; -inf
        is an exact zero, NaN an unknown that is left out.
    power : 1 or 2; the share of a block is its norm to this power over the sum for its target: with 2 its
        normalised squared norm.
    resamples : number of bootstrap draws, at least 2.
    seed : of the draws; the same call gives the same numbers bit for bit.
    threshold, relative_to : of ``threshold_lag``: a fraction of the largest pooled norm (``"peak"``, skipped
        lags left out) or of that at lag 0 (``"lag0"``).
    pooling : ``"rms"``, ``"median"`` or ``"geometric"`` mean of the norms at one distance, which the forms,
        the decay rate and ``threshold_lag`` follow. A geometric mean with an exact zero is 0.
    normalise : ``"diagonal"`` divides each norm by that of its target's block at lag 0 first.
    skip_lags : distances below this have no part in shares and forms; 1 leaves out a residual path.
    skip_first : number of sources, from the first on, that are left out: attention sinks.

    Returns
    -------
    Dataset of scalars, or over ``layer``. Each of the first seven has its standard error as
    ``<name>_stderr`` and its 95 % interval as ``<name>_low`` and ``<name>_high``, quantiles of the draws
    that stay in the range of the number:

    - ``decay_rate`` (nats per position, negative when decaying), from the exponential fit;
    - ``half_life`` (positions): ln 2 / -decay_rate where the best form is exponential and falls, else NaN;
      its standard error is that of the decay rate times half_life / -decay_rate;
    - ``mean_distance`` (positions), lag 0 included unless skipped;
    - ``effective_range`` (positions): the smallest distance within which 95 % of the share lies;
    - ``threshold_lag`` (positions): the first distance from which norms stay below ``threshold``; inf where
      they do not at the last one. Norms not known are passed over, which makes it a lower bound;
    - ``receptive_field`` (positions): the largest |lag| with a non-zero block, 0 where only lag 0 has one; at
      the largest |lag| measured, n - 1 at most, it says that every lag is reached and no more;
    - ``receptive_width`` (number of positions): from the furthest past to the furthest future source with a
      non-zero block, both counted; for a convolution the r of Araujo et al. (2019);
    - ``best_form``: one of the names along ``form``; "undetermined" with fewer than 3 distances, "zero" with
      none, "none" where a free curve is better by over 6 in BIC and the form leaves over 5 % of the variance;
    - ``bic(form)``, ``slope(form)``: criterion (smallest is best) and slope of each form;
      ``alike(form)``: 1 where it is the best or not told apart from it (BIC within 6, and a gain in
      likelihood from what parameters it has more); ``form_share(form)``: share of the draws in which it is
      the best;
    - ``independent_lags``: how many lags the residuals are worth; below 20 the decay rate of a single input
      has no interval;
    - ``residual_sd``, ``residual_autocorrelation``: of ln rms about the best smooth form, the latter from one
      distance to the next;
    - ``lag_zero_share``, ``lag_zero_excess``: share of lag 0, and by how much ln rms falls more from lag 0 to
      1 than from 1 to 2; ``first_source_share``: share of source 0;
    - ``unknown``: blocks whose norm is not known, and ``underflow``, ``overflow``, ``undecided``,
      ``not_a_number`` among them; where there are any, receptive field and width are lower bounds.

    NaN stands where there are too few distances. Attributes: the options; ``share_power``; ``resampled``
    (what was drawn again: "probe", "target", "seed", "sample"; "lag" where there is one curve);
    ``resampled_for_rates`` (the same for ``decay_rate``, ``half_life``: "target or lag" where targets share
    one input, the larger of two errors); ``resampled_run`` (neighbours drawn together); ``criterion``.

    Raises
    ------
    BadInput : not a Jacobian dataset, or one without known positions; an option that is none.

    Notes
    -----
    Every target weighs alike in the shares, however large its norms; in ln rms, blocks weigh by their
    squares. Targets near the start of the sequence see a short past and draw mean and range down: measure
    the last target, or late ones, to compare layers. Targets of one input share their past: for an error that
    holds for other inputs and weights measure several samples and seeds. A bootstrap of a maximum (receptive
    field) understates its error. Of norms from random probes, numbers are freed of the bias of logs and
    ratios of few probes, and intervals say where exact norms at all targets would put them.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> halving = xr.Dataset(
    ...     {"log_norm": (("target", "source"), -5000 - np.log(2) * np.arange(99.0, -1, -1)[None, :])},
    ...     coords={"target": [99], "position": ("target", [99.0]), "source": np.arange(100)},
    ... )
    >>> found = distances(halving, power=1)
    >>> found["best_form"].item()
    'exponential'
    >>> round(found["half_life"].item(), 9), round(found["mean_distance"].item(), 9)
    (1.0, 1.0)
    """
    if not isinstance(ds, xr.Dataset):
        how: dict[str, Any] = {"threshold": threshold, "relative_to": relative_to, "pooling": pooling}
        how |= {"normalise": normalise, "skip_lags": skip_lags, "skip_first": skip_first}
        return of_each(ds, lambda one: distances(one, power, resamples, seed, **how))
    ds, choices = one_setting(ds), Choices(power, resamples, seed, threshold, relative_to, pooling, skip_lags)
    results = [_measure(blocks, choices) for _, blocks in by_layer(ds, skip_first, normalise)]
    found = over_layers(ds, results, {})
    found.attrs = (
        ds.attrs
        | {"title": f"distances: {ds.attrs.get('title', 'temporal Jacobian')}"}
        | {"share_power": power, "resamples": resamples, "resample_seed": seed}
        | {"threshold": threshold, "relative_to": relative_to, "pooling": pooling, "normalise": normalise}
        | {"skip_lags": skip_lags, "skip_first": skip_first}
        | results[0].attrs
        | {
            "criterion": "BIC with residuals correlated from lag to lag, smallest is best",
            "fit_space": f"ln {pooling} against |lag| >= {max(1, skip_lags)}, each distance alike",
        }
    )
    return found


class _Drawn(NamedTuple):
    """A curve, its form, draws of it, what these vary ``about``; ``factor``: what their spread lacks."""

    pooled: Curves
    form: Fit
    drawn: Curves
    factor: float
    names: list[str]
    run: int
    slope: Slope
    about: Curves | None = None


def _drawn(blocks: Blocks, choices: Choices) -> _Drawn:
    # every layer starts from the same seed, so that adding one leaves the others as they were
    rng = generator(choices.seed, choices.resamples, *blocks.values.shape)
    starts = target_runs(blocks.values.shape[1])
    sizes = (len(starts), *blocks.repeats)
    several = [n for n, size in zip(("target", *REPEATS), sizes, strict=True) if size > 1]

    def collected(given: Blocks, first: Ints) -> Units:
        return collect(given, choices.power, first, choices.skip_lags)

    if blocks.probed is not None:
        pooled, base, drawn = drawn_probes(blocks, collected, choices.pooling, choices.resamples, rng)
        form = fit_forms(pooled, choices.skip_lags)
        factor = spread_factor(blocks.repeats) if max(blocks.repeats) > 1 else 1.0
        slope = slope_of(pooled, form, choices.skip_lags)
        return _Drawn(pooled, form, drawn, factor, [", ".join(["probe", *several])], 1, slope, base)
    units = collected(blocks, starts)
    pooled = weigh(units, np.ones((1, len(units.rows))), choices.pooling)
    form = fit_forms(pooled, choices.skip_lags)
    slope, names = slope_of(pooled, form, choices.skip_lags), [", ".join(several)] if several else []
    if several:
        drawn = weigh(units, drawn_units(sizes, choices.resamples, rng), choices.pooling)
        factor, run = spread_factor(sizes), int(starts[1]) if len(starts) > 1 else 1
    if max(blocks.repeats) == 1:
        # all targets of one input decay along the same steps: for their slope they are one curve
        names.append("lag")
        residual = np.full(pooled.distance.shape, np.nan)
        residual[pooled.distance >= max(1, choices.skip_lags)] = form.residual[0]
        fitted = np.flatnonzero(np.isfinite(residual))
        by_lag = drawn_lags(pooled, residual[fitted], fitted, choices.power, choices.resamples, rng)
        if several:
            # pooled over targets, what is new at each lag is correlated too, which runs of lags keep
            slope = slope.at_least(standard_error(rates_of(by_lag, choices.skip_lags), slope.rate, 1.0))
        else:
            drawn, factor, run = by_lag, 1.0, math.isqrt(len(fitted))
    return _Drawn(pooled, form, drawn, factor, names, run, slope)


def _measure(blocks: Blocks, choices: Choices) -> xr.Dataset:
    pooled, form, curves, factor, names, run, slope, base = _drawn(blocks, choices)
    forms = fit_forms(curves, choices.skip_lags, form)
    about = (choices.threshold, choices.relative_to, choices.skip_lags)
    values, spreads = numbers(pooled, form, *about), numbers(curves, forms, *about)
    if base is not None:
        spreads = {
            name: mirrored(spreads[name], float(values[name][0]), float(at[0]), name in WHOLE)
            for name, at in numbers(base, fit_forms(base, choices.skip_lags, form), *about).items()
        }
    furthest = float(max(pooled.distance.max(initial=0), pooled.empty.max(initial=0)))

    out: dict[str, tuple[Any, ...]] = {}
    for name, (number,) in values.items():
        value, drawn_values = float(number), spreads[name]
        error = standard_error(drawn_values, value, factor)
        top = {"receptive_width": 2 * furthest + 1, **dict.fromkeys(UNBOUNDED, math.inf)}.get(name, furthest)
        low, high = interval(drawn_values, value, factor, top, name in WHOLE)
        if name == RATE and "lag" in names:
            alone = names == ["lag"]
            ends = (math.nan, math.nan) if slope.lags < FEWEST_LAGS else (slope.low, slope.high)
            error = slope.stderr if alone else float(np.fmax(error, slope.stderr))
            low, high = ends if alone else (np.minimum(low, ends[0]), np.maximum(high, ends[1]))
        if name == "half_life":
            # draws that do not fall have no half-life; to first order the error of the rate has them all
            error = -value / float(values[RATE][0] or math.nan) * out[f"{RATE}_stderr"][1]
            rates = [out[f"{RATE}_{end}"][1] for end in ("low", "high")]
            low, high = (
                math.nan if math.isnan(value * r) else math.log(2) / -r if r < 0 else math.inf for r in rates
            )
        said = describe(name)
        for suffix, number, words in (
            ("", value, ""),
            ("_stderr", error, "standard error: "),
            ("_low", low, "lower end of the 95 % interval: "),
            ("_high", high, "upper end of the 95 % interval: "),
        ):
            out[f"{name}{suffix}"] = ((), float(number), said | {"long_name": words + said["long_name"]})
    scalars: dict[str, Any] = {name: int(count) for name, count in blocks.unknown((0, 1, 2)).items()}
    scalars |= {"best_form": best_form(form, pooled, scalars["unknown"]), "independent_lags": slope.lags}
    scalars |= dict(zip(("residual_sd", "residual_autocorrelation"), residuals(form), strict=True))
    scalars |= dominance(pooled)
    for name, number in scalars.items():
        out[name] = ((), number, describe(name))
    votes = np.array([(forms.best == i).mean() for i in range(len(FORMS))])
    by_form = {"bic": form.bic[0], "slope": form.slope[0], "alike": form.alike[0].astype(np.int8)}
    for name, along in (by_form | {"form_share": votes}).items():
        out[name] = ("form", along, describe(name))
    attrs = {"resampled": names[0], "resampled_for_rates": " or ".join(names), "resampled_run": run}
    return xr.Dataset(out, {"form": ("form", list(FORMS), describe("form"))}, attrs)
