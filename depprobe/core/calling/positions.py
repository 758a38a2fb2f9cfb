"""Which input position each output sits at, from which lags are counted; and how many a model has."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from depprobe.errors import BadInput

#: positions up to which half steps are told apart, and lags fit where they are counted
_MOST = 1e9
WORDS = ("same", "end", "forecast")
#: what transformers calls the table of learned positions
_LEARNED = re.compile(r"(.*\.)?(wpe|embed_positions?|positions?_embed\w*)")


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
        # a tensor's own array lacks the words that numpy asks for
        position = np.array(given.tolist() if isinstance(given, Tensor) else given, dtype=np.float64)
    except (TypeError, ValueError):
        raise BadInput(f"position must be one of {', '.join(WORDS)}, or {n_out} numbers") from None
    if position.shape != (n_out,) or not np.isfinite(position).all():
        found = f"{position.size} of shape {position.shape}" if position.shape != (n_out,) else "NaN or Inf"
        found = f"the one {position:g}" if position.ndim == 0 else found
        raise BadInput(f"position must hold {n_out} finite numbers, one an output, not {found}")
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


def check_length(module: nn.Module, n: int) -> None:
    """Whether a model of transformers has as many positions as an input, by its ``config``.

    Learned positions end with their table. Rotary ones go on beyond what the model was made for, which is
    warned of.

    Raises ``BadInput``: n exceeds the table.

    Examples
    --------
    >>> check_length(nn.LSTM(3, 4), 10**6)
    """
    stated = getattr(getattr(module, "config", None), "max_position_embeddings", None)
    if not isinstance(stated, int):
        return
    table = _table(module)
    if table is not None and table.padding_idx is not None:
        # positions begin behind the row for padding
        stated -= table.padding_idx + 1
    if n <= stated:
        return
    who = type(module).__name__
    if table is not None:
        raise BadInput(f"{who} has {stated} learned positions and the input holds n = {n}; use n <= {stated}")
    warnings.warn(
        f"{who} is configured for up to {stated} positions and the input holds n = {n}; results beyond "
        f"{stated} are those of a model outside its range",
        stacklevel=2,
    )


def _table(module: nn.Module) -> nn.Embedding | None:
    """Its learned positions."""
    found = (part for name, part in module.named_modules() if _LEARNED.fullmatch(name))
    return next((part for part in found if isinstance(part, nn.Embedding)), None)
