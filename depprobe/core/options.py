"""The options of a temporal Jacobian: they travel together, and their defaults are written here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from depprobe.core.budget import DEFAULT_MEMORY
from depprobe.errors import BadInput, unknown
from depprobe.vocabulary import METHODS, NORMS


@dataclass(frozen=True)
class Options:
    """How a temporal Jacobian is computed.

    Attributes
    ----------
    tolerance : relative error of a norm that compression may cause; 0 for none.
    memory : bytes that the job may take.
    norm : ``fro`` or ``spectral``.
    method : ``auto`` takes the structured operator where there is one and autograd elsewhere;
        ``structured``, ``autograd`` and ``probes`` insist.
    probes : number of random cotangents a row for ``method='probes'``.
    seed : seed of the probes.
    wrt : the denominator: ``x``, ``h``, ``c`` or the name of a submodule.
    forward : further arguments of the module's forward, held fixed.

    Raises
    ------
    BadInput : an option is outside what is listed here.

    Examples
    --------
    >>> Options(tolerance=0).method
    'auto'
    """

    tolerance: float = 1e-6
    memory: int = DEFAULT_MEMORY
    norm: str = "fro"
    method: str = "auto"
    probes: int = 32
    seed: int = 0
    wrt: str = "x"
    forward: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise unknown("method", self.method, METHODS)
        if self.norm not in NORMS:
            raise unknown("norm", self.norm, NORMS)
        if not 0 <= self.tolerance < 1:
            raise BadInput(f"tolerance must lie in [0, 1), not {self.tolerance}")
        if self.method == "probes" and self.probes < 2:
            raise BadInput(f"probes must be at least 2, so that their spread can be seen, not {self.probes}")
