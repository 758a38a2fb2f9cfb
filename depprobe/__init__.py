"""depprobe measures how far information and gradients travel in sequence models.

    import depprobe
    ds = depprobe.jacobian(module, x)        # ln ||dh_t/dx_k|| over target t and source k
    depprobe.distances(ds)                   # decay rate, half-life, mean distance, effective range
    depprobe.figures.decay(ds)               # the curve, on an axis that goes below 1e-308

Names load when first used, so that stored results can be read and drawn without torch. Datasets know
``ds.depprobe.distances()``, ``.decay()``, ``.plot()`` and ``.lag``.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

from depprobe._version import __version__

#: public name -> the module that holds it (None: the name is that module)
_HOME: dict[str, str | None] = {
    "jacobian": "depprobe.probes.jacobian",
    "spectrum": "depprobe.probes.spectrum",
    "gates": "depprobe.probes.gates",
    "lyapunov": "depprobe.probes.lyapunov",
    "cost": "depprobe.probes.cost",
    "advise": "depprobe.advice.ranking",
    "decision_map": "depprobe.advice.decision_map",
    "lyapunov_of_map": "depprobe.probes.lyapunov",
    "temporal_jacobian": "depprobe.operators",
    "TemporalJacobian": "depprobe.operators",
    "SequenceFunction": "depprobe.core.function",
    "register_jacobian": "depprobe.operators",
    "layers": "depprobe.registry",
    "decay_curve": "depprobe.curves",
    "distances": "depprobe.curves",
    "dense": "depprobe.curves",
    "scaling": "depprobe.curves",
    "crossovers": "depprobe.curves",
    "efficiency": "depprobe.ledger.costs.efficiency_table",
    "combine": "depprobe.store.combine",
    "open_sweep": "depprobe.store.sweeps.opening",
    "save": "depprobe.store",
    "load": "depprobe.store",
    "read_input": "depprobe.runs.inputs",
    "trained": "depprobe.models.trained.by_name",
    "validate": "depprobe.store",
    "table": "depprobe.cli.result_table",
    "DepprobeError": "depprobe.errors",
    "BadInput": "depprobe.errors",
    "OverBudget": "depprobe.errors",
    "figures": None,
}

__all__ = ["__version__", *_HOME]

if TYPE_CHECKING:
    from depprobe import figures
    from depprobe.advice.decision_map import decision_map
    from depprobe.advice.ranking import advise
    from depprobe.cli.result_table import table
    from depprobe.core.function import SequenceFunction
    from depprobe.curves import crossovers, decay_curve, dense, distances, scaling
    from depprobe.errors import BadInput, DepprobeError, OverBudget
    from depprobe.ledger.costs.efficiency_table import efficiency
    from depprobe.models.trained.by_name import trained
    from depprobe.operators import TemporalJacobian, register_jacobian, temporal_jacobian
    from depprobe.probes.cost import cost
    from depprobe.probes.gates import gates
    from depprobe.probes.jacobian import jacobian
    from depprobe.probes.lyapunov import lyapunov, lyapunov_of_map
    from depprobe.probes.spectrum import spectrum
    from depprobe.registry import layers
    from depprobe.runs.inputs import read as read_input
    from depprobe.store import load, save, validate
    from depprobe.store.combine import combine
    from depprobe.store.sweeps.opening import open_sweep


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'depprobe' has no attribute {name!r}")
    home = _HOME[name]
    if home is None:
        return importlib.import_module(f"depprobe.{name}")
    value = getattr(importlib.import_module(home), {"read_input": "read"}.get(name, name))
    globals()[name] = value
    _know_datasets()
    return value


def _know_datasets() -> None:
    """Make ``ds.depprobe`` known where xarray is loaded, which makes the datasets."""
    if "xarray" in sys.modules:
        importlib.import_module("depprobe.cli.notebook.accessor").register()


_know_datasets()


class _Package(types.ModuleType):
    """The package, whose name ``layers`` is the table of layers also once their folder is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name == "layers" and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return sorted(__all__)
