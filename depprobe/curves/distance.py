r"""Distances of every layer of a Jacobian dataset, labelled, with standard errors.

What the numbers are: ``reach``; what a share is: ``pool``; the forms and their criterion: ``form``;
the standard errors: ``resample``.
"""

from __future__ import annotations

import math

import numpy as np
import xarray as xr

from depprobe.curves.align import REPEATS, Blocks, by_layer, over_layers
from depprobe.curves.form import FORMS, UNDETERMINED, Fit
from depprobe.curves.pool import Curves, collect, weigh
from depprobe.curves.reach import fit_forms, numbers, residuals
from depprobe.curves.resample import drawn_residuals, drawn_units, spread_factor, standard_error, target_runs
from depprobe.errors import BadInput
from depprobe.vocabulary import describe

POWERS = (1, 2)
#: number that follows the curve over all lags, not each target's own shares
RATE = "decay_rate"


def distances(ds: xr.Dataset, power: int = 2, resamples: int = 200, seed: int = 0) -> xr.Dataset:
    """Distances, decay and form of each layer of a Jacobian dataset, with standard errors.

    Parameters
    ----------
    ds : Jacobian dataset with ``log_norm`` over ``(target, source)`` or ``(target, lag)``, natural logs,
        with or without ``layer``, ``seed`` and ``sample`` before them; -inf is an exact zero, NaN an unknown
        that is left out.
    power : 1 or 2, the share of a block is its norm to this power, over the sum for its target.
    resamples : number of bootstrap draws, at least 2.
    seed : of the draws; the same call gives the same numbers bit for bit.

    Returns
    -------
    Dataset of scalars, or over ``layer``. Each of the first six has its standard error as ``<name>_stderr``:

    - ``decay_rate`` (nats per position, negative when decaying), from the exponential fit;
    - ``half_life`` (positions): ln 2 / -decay_rate where the best form is exponential and falls, else NaN;
      its standard error is that of the decay rate times half_life / -decay_rate;
    - ``mean_distance`` (positions), lag 0 included;
    - ``effective_range`` (positions): the smallest distance within which 95 % of the share lies;
    - ``receptive_field`` (positions): the largest |lag| with a non-zero block, 0 where only lag 0 has one; at
      the largest |lag| measured, n - 1 at most, it says that every lag is reached and no more;
    - ``receptive_width`` (number of positions): from the furthest past to the furthest future source with a
      non-zero block, both counted; for a convolution the r of Araujo et al. (2019);
    - ``best_form``: one of the names along ``form``, or "undetermined" with fewer than 3 distances;
    - ``bic(form)``, ``slope(form)``: criterion (smallest is best) and slope of each form;
      ``form_share(form)``: share of the draws in which it is the best;
    - ``residual_sd``, ``residual_autocorrelation``: of ln rms about the best smooth form, the latter from one
      distance to the next; near 1, ``bic`` overstates how clearly the forms differ;
    - ``unknown``: blocks whose norm is not known, and ``underflow``, ``overflow``, ``undecided`` among them;
      where there are any, receptive field and width are lower bounds.

    NaN stands where there are too few distances. Attributes: ``share_power``; ``resampled`` (what was drawn
    again: "target", "seed", "sample" or several of them; "lag" where there is one curve);
    ``resampled_for_rates`` (the same for ``decay_rate`` and ``half_life``: "target or lag" where targets
    share one input, the larger of two errors); ``resampled_run`` (how many neighbouring targets, or lags,
    were drawn together); ``resamples``; ``resample_seed``; ``criterion``; ``fit_space``.

    Raises
    ------
    BadInput : not one Jacobian dataset, or one without known positions; power other than 1 or 2; fewer than 2
        resamples.

    Notes
    -----
    Every target weighs alike in the shares, however large its norms; in ln rms, blocks weigh by their
    squares. Targets near the start of the sequence see a short past and draw mean and range down: measure
    the last target, or late ones, to compare layers. Targets of one input share their past: for an error that
    holds for other inputs and weights measure several samples and seeds. A bootstrap of a maximum (receptive
    field) understates its error.

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
    if power not in POWERS:
        raise BadInput(f"power must be 1 or 2, the power of the norm in a share; got {power!r}")
    if resamples < 2:
        raise BadInput(f"resamples must be at least 2; got {resamples!r}")
    results = [_measure(blocks, power, resamples, seed) for _, blocks in by_layer(ds)]
    found = over_layers(ds, results, {})
    found.attrs = (
        ds.attrs
        | {"title": f"distances: {ds.attrs.get('title', 'temporal Jacobian')}"}
        | {"share_power": power, "resamples": resamples, "resample_seed": seed}
        | results[0].attrs
        | {
            "criterion": "BIC, smallest is best",
            "fit_space": "ln rms against |lag| >= 1, each distance alike",
        }
    )
    return found


def _measure(blocks: Blocks, power: int, resamples: int, seed: int) -> xr.Dataset:
    # every layer starts from the same seed, so that adding one leaves the others as they were
    rng = np.random.default_rng(seed)
    starts = target_runs(blocks.values.shape[1])
    sizes = (len(starts), *blocks.repeats)
    units = collect(blocks, power, starts)
    pooled = weigh(units, np.ones((1, len(units.rows))))
    form = fit_forms(pooled)
    draws: list[tuple[Curves, float]] = []
    names, run = [], 1
    if max(sizes) > 1:
        draws.append((weigh(units, drawn_units(sizes, resamples, rng)), spread_factor(sizes)))
        names.append(", ".join(n for n, size in zip(("target", *REPEATS), sizes, strict=True) if size > 1))
        run = int(starts[1]) if len(starts) > 1 else 1
    if max(blocks.repeats) == 1:
        # all targets of one input decay along the same steps: for their slope they are one curve
        by_lag, lag_run = _drawn_lags(pooled, form, power, resamples, rng)
        draws.append((by_lag, 1.0))
        names.append("lag")
        run = run if len(draws) > 1 else lag_run
    forms = [fit_forms(curves) for curves, _ in draws]
    values = numbers(pooled, form)
    spreads = [(numbers(curves, f), factor) for (curves, factor), f in zip(draws, forms, strict=True)]

    out = xr.Dataset(coords={"form": ("form", list(FORMS), describe("form"))})
    for name, value in values.items():
        about = describe(name)
        out[name] = ((), float(value[0]), about)
        errors = [standard_error(drawn[name], float(value[0]), factor) for drawn, factor in spreads]
        error = np.fmax.reduce(errors) if name == RATE else errors[0]
        if name == "half_life":
            # draws that do not fall have no half-life; to first order the error of the rate has them all
            error = abs(float(value[0] / values[RATE][0])) * float(out[f"{RATE}_stderr"])
        out[f"{name}_stderr"] = ((), error, about | {"long_name": f"standard error: {about['long_name']}"})
    best = int(form.best[0])
    out["best_form"] = ((), FORMS[best] if best >= 0 else UNDETERMINED, describe("best_form"))
    out["bic"] = ("form", form.bic[0], describe("bic"))
    out["slope"] = ("form", form.slope[0], describe("slope"))
    votes = np.array([(forms[0].best == i).mean() for i in range(len(FORMS))])
    out["form_share"] = ("form", votes, describe("form_share"))
    for name, number in zip(("residual_sd", "residual_autocorrelation"), residuals(form), strict=True):
        out[name] = ((), number, describe(name))
    for name, count in blocks.unknown((0, 1, 2)).items():
        out[name] = ((), int(count), describe(name))
    return out.assign_attrs(resampled=names[0], resampled_for_rates=" or ".join(names), resampled_run=run)


def _drawn_lags(
    pooled: Curves, form: Fit, power: int, resamples: int, rng: np.random.Generator
) -> tuple[Curves, int]:
    """Curves like the only one there is, its residuals drawn again in runs, and the length of a run."""
    residual = np.full(pooled.distance.shape, np.nan)
    residual[pooled.distance >= 1] = form.residual[0]
    fitted = np.flatnonzero(np.isfinite(residual))
    change = np.full((resamples, len(residual)), np.nan)
    if len(fitted):
        change[:] = 0.0
        change[:, fitted] = drawn_residuals(residual[fitted], resamples, rng) - residual[fitted]
        # lag 0 has no residual and moves with its neighbour, so that a common offset changes no share
        change[:, pooled.distance == 0] = change[:, fitted[:1]]
    return pooled.moved(change, power), math.isqrt(len(fitted))
