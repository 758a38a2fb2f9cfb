"""The names that datasets are written in: dimensions, variables, units. No torch here.

The same word means the same thing in every dataset, figure, option and page; other programs
rely on these names, so a change here raises ``SCHEMA_VERSION``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SCHEMA_VERSION = "2"

#: what a value of ``log_norm_status`` says of a norm; log_norm is finite for ``finite``, -inf for ``zero``
#: alone and NaN for all others
STATUS = {
    "not_measured": 0,
    "finite": 1,
    "zero": 2,
    "underflow": 3,
    "overflow": 4,
    "undecided": 5,
    "not_a_number": 6,
}

#: status of a number, of -inf and of NaN, of which nothing else is known
UNTOLD = (STATUS["finite"], STATUS["zero"], STATUS["undecided"])

#: dimension or coordinate -> (long name, units)
DIMENSIONS: dict[str, tuple[str, str]] = {
    "target": ("output position t", "position"),
    "source": ("input position k", "position"),
    "position": ("input position the target sits at", "position"),
    "lag": ("lag (position - source)", "positions"),
    "mode": ("index of a singular value, eigenvalue or exponent", "1"),
    "part": ("real or imaginary part", "1"),
    "gate": ("gate", "1"),
    "unit": ("hidden unit", "1"),
    "head": ("attention head", "1"),
    "depth": ("index of a stacked layer", "1"),
    "source_token": ("token at the input position", "1"),
    "target_token": ("token at the output position", "1"),
    "submodule": ("submodule at a depth", "1"),
    "layer": ("layer", "1"),
    "symbol": ("what one position of the input is", "1"),
    "sample": ("input sample", "1"),
    "tokens": ("tokens of the input, without padding", "positions"),
    "seed": ("seed of the weights", "1"),
    "n": ("sequence length", "positions"),
    "d": ("width", "1"),
    "d_in": ("width of the input", "1"),
    "phase": ("forward or forward with backward", "1"),
    "threads": ("threads", "1"),
    "of": ("numerator", "1"),
    "wrt": ("denominator", "1"),
    "method": ("operator that ran", "1"),
    "tolerance": ("relative error that compression may cause", "1"),
    "probes": ("orthonormal random rows a target; 0 where norms are not estimated", "1"),
    "deflated": ("how many of the probes are directions taken exactly", "1"),
    "kind": ("whether log_norm_error is a bound or an estimate", "1"),
    "dtype": ("dtype of weights and input", "1"),
    "form": ("form of the decay curve", "1"),
    "forget_bias": ("bias of the forget gate", "1"),
    "gain": ("gain of the recurrent weights", "1"),
    "theory": ("prediction", "1"),
    "constant": ("what fixes the height of a predicted curve", "1"),
    "weight": ("matrix whose spectrum is taken", "1"),
    "row": ("imaginary part on the grid, over grid_radius", "1"),
    "column": ("real part on the grid, over grid_radius", "1"),
    "step": ("steps after the warm-up", "steps"),
    "quantity": ("what is counted or measured", "1"),
    "other": ("layer compared with", "1"),
    "task": ("task trained on", "1"),
    "task_lag": ("lag the task has to bridge", "positions"),
    "clip": ("norm the gradient is clipped to; inf is no clipping", "1"),
    "optimizer": ("optimizer", "1"),
    "snapshot": ("moment of training", "1"),
    "input": ("what the layer reads", "1"),
    "past": ("distance t - k over n", "1"),
    "stream": ("what carries a position past a layer", "1"),
}

#: paths of a gated recurrence, from c or h to c or h
PATHS = ("cc", "hc", "hh")

#: data variable -> (long name, units)
VARIABLES: dict[str, tuple[str, str]] = {
    "log_norm": ("natural log of the norm of J[t,k]", "ln 1"),
    "log_norm_status": ("what is known of log_norm", "1"),
    "log_norm_stderr": ("standard error of log_norm from random probes", "ln 1"),
    "log_norm_low": ("lower end of the 95 % interval of log_norm, from random probes", "ln 1"),
    "log_norm_high": ("upper end of the 95 % interval of log_norm, from random probes", "ln 1"),
    "effective_rank": ("effective rank of J[t,k]: (sum s^2)^2 / sum s^4 over its singular values s", "1"),
    "probe_loading": ("how far the error from probes is common to the sources of a target", "1"),
    "log_norm_error": ("error of log_norm from compression and rounding", "ln 1"),
    "trajectory_digits": ("decimal digits that the state at target keeps of rounding from source on", "1"),
    "log_median": ("natural log of the median norm", "ln 1"),
    "log_low": ("natural log of the 5 % quantile of the norms", "ln 1"),
    "log_high": ("natural log of the 95 % quantile of the norms", "ln 1"),
    "log_geometric": ("natural log of the geometric mean of the norms", "ln 1"),
    "log_rms": ("natural log of the root mean square of the norms", "ln 1"),
    "count": ("blocks pooled, exact zeros included", "1"),
    "zeros": ("blocks that are exactly zero", "1"),
    "unknown": ("blocks whose norm is not known", "1"),
    "underflow": ("blocks that are not zero and below the float floor", "1"),
    "overflow": ("blocks beyond the largest float", "1"),
    "not_a_number": ("blocks at outputs that are not a number (NaN)", "1"),
    "undecided": ("blocks where a zero cannot be told from an underflow", "1"),
    "decay_rate": ("decay rate: slope of ln rms against lag", "ln 1 per position"),
    "half_life": ("half-life of the norm, where the form is exponential", "positions"),
    "mean_distance": ("mean dependency distance, weighted by share", "positions"),
    "effective_range": ("distance within which 95 % of the share lies", "positions"),
    "threshold_lag": ("first distance from which norms stay below a fraction", "positions"),
    "receptive_field": ("largest distance with a non-zero block", "positions"),
    "receptive_width": ("positions from the furthest past to the furthest future source", "positions"),
    "best_form": ("form that fits the decay curve best", "1"),
    "bic": ("Bayesian information criterion, smallest is best", "1"),
    "slope": ("slope of ln rms in lag, ln lag or lag squared", "ln 1"),
    "form_share": ("share of the resamples in which a form is best", "1"),
    "alike": ("1 where a form is the best or not told apart from it", "1"),
    "independent_lags": ("number of independent lags that the residuals are worth", "1"),
    "lag_zero_share": ("share of lag 0 in the normalised norms", "1"),
    "lag_zero_excess": ("fall of ln rms from lag 0 to 1 beyond that from 1 to 2", "ln 1"),
    "first_source_share": ("share of source 0 in the normalised norms", "1"),
    "residual_sd": ("standard deviation of ln rms about the best smooth form", "ln 1"),
    "residual_autocorrelation": ("correlation of neighbouring residuals of ln rms", "1"),
    **{f"log_norm_{p}": (f"natural log of the norm of d{p[0]}_t/d{p[1]}_k", "ln 1") for p in PATHS},
    **{
        f"log_norm_{p}_error": (f"bound on the error of log_norm_{p} from compression and rounding", "ln 1")
        for p in PATHS
    },
    "log_norm_product": ("natural log of the norm of the diagonal product of carrying gates", "ln 1"),
    "log_gate_product": ("natural log of the product of the carrying gate over (k, t]", "ln 1"),
    "log_gap": ("log_norm_cc or log_norm_hh, minus log_norm_product", "ln 1"),
    "gate_value": ("value of the gate", "1"),
    "time_constant": ("time constant of the carrying gate, -1 / mean ln f", "positions"),
    "hold_share": ("share of units whose time constant exceeds the lag", "1"),
    "missing_reason": ("why a cell of a sweep holds no values", "1"),
    "exponent": ("Lyapunov exponent; -inf exactly singular, NaN below round-off", "nats per step"),
    "exponent_stderr": ("standard error of the Lyapunov exponent", "nats per step"),
    "exponent_running": ("Lyapunov exponent from the steps so far", "nats per step"),
    "exponent_case": ("Lyapunov exponent of one seed and sample", "nats per step"),
    "exponent_case_stderr": ("standard error of it from block means", "nats per step"),
    "exponent_sum": ("sum of all Lyapunov exponents", "nats per step"),
    "log_det": ("mean ln abs det of the step Jacobian", "nats per step"),
    "kaplan_yorke": ("Kaplan-Yorke dimension", "1"),
    "entropy_rate": ("sum of the positive Lyapunov exponents", "nats per step"),
    "interval": ("mean number of steps between two orthonormalisations", "steps"),
    "state": ("width of the state", "1"),
    "log_theory": ("natural log of the predicted norm of J[t,k]", "ln 1"),
    "predicted_width": ("predicted standard deviation of the lag, weighed by squared norms", "positions"),
    "predicted_rate": ("predicted slope of ln norm against lag", "ln 1 per position"),
    "eigenvalue": ("eigenvalue", "1"),
    "singular_value": ("singular value", "1"),
    "spectral_radius": ("largest modulus of an eigenvalue", "1"),
    "largest_singular_value": ("largest singular value", "1"),
    "log_condition": ("natural log of the condition number; inf where singular to round-off", "ln 1"),
    "henrici": ("departure from normality over the Frobenius norm (Henrici)", "1"),
    "log_growth": ("natural log of the largest spectral norm of a power", "ln 1"),
    "growth_power": ("power at which the norm is largest", "1"),
    "growth_settled": ("1 where no later power can exceed it, 0 where powers ran out", "1"),
    "residual": ("residual of leading modes over the largest singular value", "1"),
    "circular_radius": ("radius of the circular law for entries of this spread", "1"),
    "log_resolvent": ("natural log of the smallest singular value of zI - W", "ln 1"),
    "grid_radius": ("half width of the grid in the complex plane", "1"),
    "matrix_width": ("rows of the matrix", "1"),
    "matrix_seed": ("seed of the weights of the matrix", "1"),
    "flops": ("FLOPs counted in matrix products, a multiply-add is 2", "FLOPs"),
    "flops_formula": ("FLOPs of the layer's own formula", "FLOPs"),
    "flops_chain": ("FLOPs on the longest chain of dependent operations", "FLOPs"),
    "parallelism": ("FLOPs over FLOPs on the longest dependent chain", "1"),
    "time": ("median time", "s"),
    "time_low": ("lower quartile of the time", "s"),
    "time_high": ("upper quartile of the time", "s"),
    "peak_bytes": ("most bytes of tensors alive at once, parameters and input apart", "B"),
    "kept_bytes": ("bytes of activations kept for the backward pass", "B"),
    "parameter_bytes": ("bytes of parameters and buffers", "B"),
    "process_bytes": ("peak resident memory of the process, over what it was before", "B"),
    "step_time": ("median per-token latency of a stream", "s"),
    "step_time_low": ("lower quartile of the per-token latency", "s"),
    "step_time_high": ("upper quartile of the per-token latency", "s"),
    "state_bytes": ("bytes kept between two tokens of a stream", "B"),
    "sequential_steps": ("steps that must follow one another", "steps"),
    "path_length": ("fewest layer applications plus steps through time from x_1 to h_n", "steps"),
    "predicted_time": ("predicted time of a training step, or per-token latency of a stream", "s"),
    "predicted_error": ("root mean square of ln(predicted / measured), points left out in turn", "1"),
    "predicted_bytes": ("predicted bytes of activations, or of the state of a stream", "B"),
    "layers_needed": ("layers, one on another, that reach the lag", "1"),
    "log_arrival": ("natural log of the norm at the lag over the largest norm in the row", "ln 1"),
    "log_arrival_stderr": ("standard error of log_arrival over seeds", "ln 1"),
    "extrapolated": ("1 where log_arrival was continued from shorter sequences", "1"),
    "group": ("0 usable, 1 the gradient drowns in float32, 2 unfit", "1"),
    "tree_factor": ("time of the layer a rule takes over that of the best; inf where it is not usable", "1"),
    "best": ("index of the layer to take, -1 where none is usable", "1"),
    "pairs": ("unmasked pairs of positions", "1"),
    "time_ratio": ("time over that of the reference", "1"),
    "memory_ratio": ("peak bytes over those of the reference", "1"),
    "scaling_n": ("exponent of growth with n", "1"),
    "scaling_n_stderr": ("standard error of the exponent of growth with n", "1"),
    "scaling_d": ("exponent of growth with d", "1"),
    "scaling_d_stderr": ("standard error of the exponent of growth with d", "1"),
    "relative_loss": ("loss on fresh sequences after training, over the loss of chance", "1"),
    "learned": ("1 where the loss fell below the threshold, 0 where not", "1"),
    "steps": ("training steps taken", "steps"),
    "diverged": ("1 where loss or gradient overflowed, 0 where not", "1"),
    "gradient_norm": ("median norm of the gradient in all weights, before clipping", "1"),
    "gradient_norm_max": ("largest norm of the gradient in all weights, before clipping", "1"),
    "clipped_share": ("share of the steps in which the gradient was clipped", "1"),
    "log_norm_needed": ("natural log of the rms norm of J[t,k] at the task's lag, before training", "ln 1"),
    "crossover": ("n from which a layer exceeds the other", "positions"),
    "crossover_low": ("lower end of the 95 % interval of the crossover", "positions"),
    "crossover_high": ("upper end of the 95 % interval of the crossover", "positions"),
}

#: ways of measuring a block, and the symbol figures use
NORMS: dict[str, str] = {"fro": r"\Vert J_{t,k}\Vert_F", "spectral": r"\Vert J_{t,k}\Vert_2"}
NORMS["fisher"] = r"\Vert J_{t,k}\Vert_{\mathrm{Fisher}}"
#: the norms in words
NORM_WORDS: dict[str, str] = {"fro": "Frobenius norm", "spectral": "spectral norm", "fisher": "Fisher norm"}

#: what the Jacobian is taken with respect to
WRT: dict[str, str] = {"x": "the input", "h": "the earlier hidden state", "c": "the earlier cell state"}

#: what drives the recurrence whose Lyapunov exponents are measured
DRIVES: tuple[str, ...] = ("input", "none")

#: how the norms at one lag are pooled
POOLINGS: tuple[str, ...] = ("rms", "median", "geometric")
#: what norms are divided by: nothing, or that of the same target's block at lag 0
NORMALISED: tuple[str, ...] = ("none", "diagonal")
#: the norm of which ``threshold`` is a fraction: the largest by lag, or that at lag 0
RELATIVE_TO: tuple[str, ...] = ("peak", "lag0")

METHODS: tuple[str, ...] = ("auto", "structured", "autograd", "probes")

#: kind of dataset, named after the command that measures it -> the variable that tells it
KINDS: dict[str, str] = {
    "jacobian": "log_norm",
    "spectrum": "eigenvalue",
    "lyapunov": "exponent",
    "gates": "gate_value",
    "cost": "flops",
}

#: kind of dataset that is computed of a measured one -> a variable that only it has
COMPUTED: dict[str, str] = {"distances": "best_form", "decay": "log_median"}

#: attributes that every dataset carries
ATTRIBUTES: tuple[str, ...] = (
    *("title", "layer", "n", "d", "seed", "dtype"),
    *("depprobe_version", "schema_version", "provenance"),
)

#: attributes that a Jacobian dataset carries besides
JACOBIAN_ATTRIBUTES: tuple[str, ...] = ("norm", "wrt", "method", "tolerance")


#: name of a dimension or variable -> its attributes
ABOUT: dict[str, dict[str, Any]] = {
    name: {"long_name": long_name, "units": units}
    for name, (long_name, units) in (DIMENSIONS | VARIABLES).items()
}
ABOUT["log_norm_status"] |= {"flag_values": list(STATUS.values()), "flag_meanings": " ".join(STATUS)}


def describe(name: str) -> dict[str, Any]:
    """The ``long_name`` and ``units`` of a dimension or variable, as xarray attributes; its flags, if any."""
    return dict(ABOUT[name])


def at_lag_0(position: Any) -> Any:
    """The source at lag 0 of targets at these positions; half a position rounds up."""
    return (position + 0.5) // 1


def status_of(log_norm: NDArray[np.float64], exists: Any = True) -> NDArray[np.int8]:
    """Status of norms of which nothing else is known: NaN is undecided, or not measured where none exists.

    Examples
    --------
    >>> import numpy as np
    >>> status_of(np.array([-3.0, -np.inf, np.nan, np.nan]), [True, True, True, False]).tolist()
    [1, 2, 5, 0]
    """
    import numpy as np  # the names alone need none

    status = np.take(UNTOLD, np.isneginf(log_norm) + 2 * ~(log_norm < np.inf)).astype(np.int8)
    status[np.isnan(log_norm) & ~np.broadcast_to(exists, log_norm.shape)] = STATUS["not_measured"]
    return status
