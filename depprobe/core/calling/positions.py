"""Which input position each output sits at: lags and distances are counted from it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from depprobe.errors import BadInput

#: positions up to which half steps are told apart, and lags fit where they are counted
_MOST = 1e9
WORDS = ("same", "end", "forecast")


def positions_of(given: Any, n_out: int, n_in: int, has_time: bool) -> NDArray[np.float64] | None:
    """Input positions of the outputs, (n_out,), or None where they cannot be known.

    Parameters
    ----------
    given : ``same``, ``end``, ``forecast`` (n, n + 1, ...), an array; or None: ``same`` where lengths agree,
        ``end`` for an output without a time axis or of length 1.

    Raises ``BadInput``: none of these, or it does not fit n_out.

    Examples
    --------
    >>> positions_of("forecast", 3, 10, True).tolist()
    [10.0, 11.0, 12.0]
    """
    if given is None:
        if not has_time or (n_out == 1 and n_in != 1):
            given = "end"
        elif n_out == n_in:
            given = "same"
        else:
            return None
    if isinstance(given, str):
        return _named(given, n_out, n_in)
    try:
        position = np.array(given, dtype=np.float64)
    except (TypeError, ValueError):
        raise BadInput(f"position must be one of {', '.join(WORDS)}, or {n_out} numbers") from None
    if position.shape != (n_out,) or not np.isfinite(position).all():
        raise BadInput(f"position must hold {n_out} finite numbers, one an output, not {position.shape}")
    if (most := np.abs(position).max()) > _MOST:
        raise BadInput(f"position holds {most:g}; lags are whole numbers, so use positions up to {_MOST:g}")
    return position


def _named(word: str, n_out: int, n_in: int) -> NDArray[np.float64]:
    if word not in WORDS:
        raise BadInput(f"position must be one of {', '.join(WORDS)}, or {n_out} numbers, not {word!r}")
    if word == "forecast":
        return n_in + np.arange(n_out, dtype=np.float64)
    if word == "same":
        if n_out != n_in:
            raise BadInput(f"position 'same' needs as many outputs as inputs, not {n_out} and {n_in}")
        return np.arange(n_out, dtype=np.float64)
    if n_out != 1:
        raise BadInput(f"position 'end' is for a single output, not {n_out}; use forecast, or an array")
    return np.array([n_in - 1.0])
