r"""The spectrum of what a recurrence multiplies by: eigenvalues, singular values, distance from normal.

    h_t = phi(W_hh h_{t-1} + W_ih x_t + b)      W_hh, gate by gate
    s_k = F(s_{k-1}, x_k)                       ds_k/ds_{k-1} on the full state, (c, h) for an LSTM

Eigenvalues tell how powers W^k end, singular values how they begin; a matrix far from normal grows in
between, which the largest norm of a power and the pseudospectrum show. Sources: ``dynamics.spectra``,
``dynamics.pseudospectrum``; circular law: Girko 1984.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from depprobe.core.options import DEFAULT_MEMORY, plain_modes, require
from depprobe.dynamics.pseudospectrum import smallest_singular_values
from depprobe.dynamics.recurrent_weights import named_weights, recurrent_weights
from depprobe.dynamics.spectra import DENSE, Spectrum, leading_spectrum, spectrum_of
from depprobe.dynamics.square_matrices import SquareMatrix, step_matrices, weight_matrices
from depprobe.errors import BadInput
from depprobe.runs.cache import Place, holding
from depprobe.runs.cases import Case, Cases, Progress, cases_of, collect, subjects_of
from depprobe.runs.identity import identity_of
from depprobe.runs.inner_recurrence import at_recurrences
from depprobe.runs.inputs import Source
from depprobe.runs.labelling import described, input_of, numbers_of, origin
from depprobe.runs.subject import NamedLayer, Request, asks, refuse
from depprobe.units import counted

#: bytes an entry of a dense matrix takes on its way through the decompositions
_BYTES_PER_ENTRY = 160
#: a spectrum, the circular law's radius, the grid's half width and what stands on it
Taken: TypeAlias = tuple[Spectrum, float, float, NDArray[np.float64] | None]
#: the grid reaches this far beyond the largest of 1, the spectral radius and the circular law's radius
_MARGIN = 1.25
#: where not given: modes of a wide matrix, points a side of the grid
_MODES, _GRID = 16, 33


@plain_modes()
@asks(powers="a whole number", grid="a whole number", dense="a whole number", modes="a whole number")
@asks(weight="a list", command="text", progress="a function")
def spectrum(
    module: Any,
    x: Any = None,
    *,
    weight: str | Sequence[str] | None = None,
    steps: str | int | Sequence[int] | None = None,
    part: str | None = None,
    modes: int | None = None,
    powers: int = 64,
    grid: int | None = None,
    dense: int = DENSE,
    n: int | None = None,
    d: int | None = None,
    seeds: int | None = None,
    seed: int = 0,
    dtype: str | None = None,
    device: str | None = None,
    memory: int | str = DEFAULT_MEMORY,
    command: str | None = None,
    progress: Progress | None = None,
    finished: Place | None = None,
) -> xr.Dataset:
    """Eigenvalues, singular values and non-normality of recurrent weights, or of steps along a trajectory.

    Parameters
    ----------
    module : your ``nn.Module``, of which all recurrent weights are taken, gate by gate (pruned, normed or
        parametrised ones as its next call computes them; what its forward assigns itself is not seen); the
        spec string of a named layer, or several; a factory, or a mapping from labels.
    x, n, d, seeds, seed, dtype, device, memory, command, progress, finished : as for ``depprobe.jacobian``; x
        and n have a meaning where ``steps`` are asked for. Spectra are computed in float64.
    weight : name of a square parameter or buffer to take instead (``"encoder.weight"``), or several.
    steps : positions k whose step Jacobians ds_k/ds_{k-1} to take instead, each stacked layer and direction
        on its own, its input held: ``last``, ``all``, ``every:M``, a position, a list. Of a model that is no
        recurrence itself, those of the recurrence in it, at what the model hands it.
    part : with ``steps``, name of the recurrence in a model that holds several (``"encoder.rnn"``).
    modes : number of leading modes; by default all of a matrix up to ``dense`` wide, 16 of a wider one.
    powers : highest power of the search for transient growth.
    grid : points a side of the grid for the pseudospectrum of the others, odd; 33 by default, 0 for none.
    dense : widest matrix that is taken apart whole; wider ones by ARPACK (step Jacobians without forming
        them), the residual being stated in ``residual``.

    Returns
    -------
    Dataset over ``weight``, the name of each matrix, with

    - ``eigenvalue(weight, mode, part)`` by falling modulus, the upper one of a conjugate pair first;
      ``singular_value(weight, mode)``, falling; NaN beyond the modes of a narrower matrix;
    - ``spectral_radius``, ``largest_singular_value``, ``log_condition``, ``henrici`` (0 normal, to 1);
    - ``log_growth`` = ln max norm2(W^k) over 0 <= k <= ``powers``, at ``growth_power``, and
      ``growth_settled``: 1 where some norm2(W^k) <= 1, after which none can be larger;
    - ``circular_radius`` = sqrt(d) times the standard deviation of the entries, of weights;
    - ``log_resolvent(weight, row, column)``, ln of the smallest singular value of zI - W at
      z = ``grid_radius`` (column + i row); below round-off of W it is given as that round-off.

    What only a whole spectrum tells is NaN of matrices wider than ``dense``.

    Raises
    ------
    BadInput : no recurrence, or a weight that is not square (the message lists those that are); anything
        else in the call is not as above.
    OverBudget : the job would need more memory than the budget.
    DepprobeError : leading modes did not converge.

    Examples
    --------
    >>> ds = spectrum("rnn:gain=0.9,orthogonal=true", d=20)
    >>> round(float(ds.spectral_radius[0]), 6), round(float(ds.henrici[0]), 6)
    (0.9, 0.0)
    """
    asked = Request(n, d, None, seeds, seed, dtype, device, memory)
    _check(weight, steps, grid, powers=powers, dense=dense, modes=modes)
    along = steps is not None
    if not along:
        refuse({"part": part}, [("part", "weights of all recurrences are taken, unless steps are asked for")])
    measured = cases_of(module, x, asked) if along else _without_input(module, asked, x)
    measured = at_recurrences(measured, part) if along else measured
    cases, labels = measured.cases, measured.labels
    if measured.samples > 1:
        raise BadInput(f"steps are taken along one input (n, d), not along {measured.samples} samples")

    names = [weight] if isinstance(weight, str) else weight
    matrices: list[SquareMatrix] = []
    of: list[Case] = []
    for case in cases:
        before, after = f"{case.label} " * (len(labels) > 1), f" seed {case.seed}" * (len(measured.seeds) > 1)
        module = case.build()
        if steps is not None:
            own = step_matrices(module, case.x, steps, case.label, asked.memory)
        else:
            weights = named_weights(module, names) if names else recurrent_weights(module, case.label)
            own = weight_matrices(weights)
        matrices += [replace(one, label=f"{before}{one.label}{after}") for one in own]
        of += [case] * len(own)
    widths = [m.width for m in matrices]
    idle = [("grid", f"all are wider than {dense}: none is taken")] if min(widths) > dense else []
    refuse({"grid": grid or None}, idle)
    grid = _GRID if grid is None else grid
    widest = min(max(widths), dense)
    require(
        _BYTES_PER_ENTRY * widest**2 + 8.0 * len(matrices) * (grid**2 + 3 * widest),
        asked.memory,
        f"the spectrum of {counted(len(matrices), 'matrix')} up to {widest} wide",
        "lower dense, ask for fewer steps or a smaller grid",
    )

    def facts(item: tuple[SquareMatrix, Case]) -> dict[str, Any]:
        matrix, case = item
        known = {"matrix": matrix.label, "layer": case.label, "seed": case.seed, "d": asked.of("d")}
        known |= {"dtype": asked.of("dtype"), "of": "steps" if along else "weights", "dense": dense}
        known |= {"modes": modes, "powers": powers, "grid": grid}
        return known | {"probe": "spectrum"} | identity_of(case)

    found = collect(
        list(zip(matrices, of, strict=True)),
        lambda item, report: _take_apart(item[0], modes, powers, grid, dense),
        name=lambda item: item[0].label,
        progress=progress,
        kept=holding(finished, _fields, _kept),
        facts=facts,
    )
    ds = _labelled(matrices, [case.seed for case in of], found, grid)
    read = {str(p.dtype).removeprefix("torch.") for case in cases for p in case.build().parameters()}
    ds.attrs = origin(
        f"Spectrum of {'steps' if along else 'weights'}",
        labels,
        command or f"depprobe.spectrum({measured.named})",
        numbers_of(measured.cases) if along else None,
        method="+".join(sorted({"dense" if one[0].triangular is not None else "arpack" for one in found})),
        of="steps" if along else "weights",
        powers=powers,
        modes=modes or 0,  # all
        n=len(cases[0].x) if along else 0,
        d=max(widths) if measured.own_width else asked.of("d"),
        seed=seed,
        dtype=", ".join(sorted(read)) or asked.of("dtype"),
        **input_of(cases),
    )
    return ds


def _without_input(module: Any, asked: Request, x: Any) -> Cases:
    """Cases whose weights are looked at and nothing else: they are given no input."""
    refuse({"n": asked.n}, [("n", "weights are read without an input; steps need one")])
    if x is not None and not isinstance(x, Source):
        raise BadInput("x has no meaning without steps: weights are read without an input")
    subjects = subjects_of(module)
    if all(isinstance(one, NamedLayer) for one in subjects):
        # the shortest noise stands in for an input
        return cases_of(module, None, replace(asked, n=2))
    return cases_of(module, np.zeros((2, 1)), asked)


def _check(weight: Any, steps: Any, grid: int | None, **counts: int | None) -> None:
    if weight is not None and steps is not None:
        raise BadInput("give weight or steps, not both")
    if weight is not None and not (len(weight) and all(isinstance(name, str) for name in weight)):
        raise BadInput(f"weight names no parameter: {weight!r:.60}")
    if weight is not None and len({*weight}) < len(weight):
        raise BadInput(f"weight names one parameter twice: {', '.join(weight)}")
    for name, value in counts.items():
        if value is not None and value < 1:
            raise BadInput(f"{name} must be at least 1, not {value}")
    if grid and (grid < 3 or grid % 2 == 0):
        raise BadInput(f"grid must be 0 or an odd number from 3 on, not {grid}")


def _take_apart(matrix: SquareMatrix, modes: int | None, powers: int, grid: int, dense: int) -> Taken:
    """The spectrum, the circular law's radius, the grid's half width and what stands on it."""
    whole = matrix.width <= dense
    W = matrix.whole() if whole or matrix.is_weight else None
    found = (
        spectrum_of(W, powers).leading(modes)
        if whole and W is not None
        else leading_spectrum(matrix.products(), modes or _MODES, powers)
    )
    # the spread is about the mean: a common offset moves one eigenvalue only
    circle = math.sqrt(matrix.width) * _spread(W) if W is not None and matrix.is_weight else math.nan
    if found.triangular is None or not grid:
        return found, circle, math.nan, None
    radius = _MARGIN * max(1.0, float(np.abs(found.eigenvalues[0])), circle if math.isfinite(circle) else 0.0)
    axis = radius * np.linspace(-1, 1, grid)
    upper = axis[grid // 2 :]
    # of a real matrix, the lower half plane is the mirror image
    half = smallest_singular_values(found.triangular, axis[None, :] + 1j * upper[:, None])
    return found, circle, radius, np.concatenate([half[:0:-1], half])


def _spread(W: NDArray[np.float64]) -> float:
    """Standard deviation of the entries, of any size."""
    shift = math.frexp(float(np.abs(W).max()))[1]
    return math.ldexp(float(np.ldexp(W, -shift).std()), shift)


def _fields(taken: Taken) -> dict[str, Any]:
    known, circle, radius, resolvent = taken
    whole = known.triangular is not None
    kept = {**vars(known), "triangular": None, "whole": whole}
    return kept | {"circle": circle, "radius": radius, "resolvent": resolvent}


def _kept(fields: dict[str, Any]) -> Taken:
    circle, radius, whole = (fields.pop(name) for name in ("circle", "radius", "whole"))
    resolvent = fields.pop("resolvent", None)
    # of the triangular form, what follows asks only whether there was one
    known = Spectrum(**fields, triangular=np.empty((0, 0), complex) if whole else None)
    return known, circle, radius, resolvent


def _labelled(
    matrices: Sequence[SquareMatrix], seeds: Sequence[int], found: Sequence[Taken], grid: int
) -> xr.Dataset:
    spectra, circles, radii, resolvents = zip(*found, strict=True)
    eigenvalue = _padded([np.stack([one.eigenvalues.real, one.eigenvalues.imag], 1) for one in spectra])
    columns: dict[str, Sequence[Any]] = {
        name: [getattr(one, name) for one in spectra]
        for name in ("log_condition", "henrici", "log_growth", "growth_power", "residual")
    }
    columns |= {
        "spectral_radius": [float(np.abs(one.eigenvalues[0])) for one in spectra],
        "largest_singular_value": [float(one.singular_values[0]) for one in spectra],
        "growth_settled": [int(one.growth_settled) for one in spectra],
        "circular_radius": circles,
        "matrix_width": [m.width for m in matrices],
        "matrix_seed": seeds,
    }
    variables: dict[str, Any] = {name: ("weight", list(values)) for name, values in columns.items()}
    variables["eigenvalue"] = (("weight", "mode", "part"), eigenvalue)
    variables["singular_value"] = (("weight", "mode"), _padded([one.singular_values for one in spectra]))
    coords: dict[str, Any] = {
        "weight": [m.label for m in matrices],
        "mode": np.arange(eigenvalue.shape[1]),
        "part": ["real", "imag"],
    }
    if any(one is not None for one in resolvents):
        missing = np.full((grid, grid), np.nan)
        values = np.stack([missing if one is None else one for one in resolvents])
        variables |= {
            "log_resolvent": (("weight", "row", "column"), values),
            "grid_radius": ("weight", list(radii)),
        }
        coords |= dict.fromkeys(("row", "column"), np.linspace(-1, 1, grid))
    return described(xr.Dataset(variables, coords=coords))


def _padded(arrays: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Arrays of different lengths as one, NaN beyond the end of each."""
    padded = np.full((len(arrays), max(map(len, arrays)), *arrays[0].shape[1:]), np.nan)
    for row, values in zip(padded, arrays, strict=True):
        row[: len(values)] = values
    return padded
