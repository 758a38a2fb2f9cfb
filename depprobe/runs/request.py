"""What a call asks of its cases, and what of it has no meaning there: asked for, or refused.

None stands for "not given", so that an argument that would be ignored can be told from a default.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from depprobe.core.options import DEFAULT_MEMORY, parse_bytes
from depprobe.errors import BadInput, unknown

#: what is taken where a call gives none
DEFAULTS: dict[str, Any] = {
    "n": 1000,
    "d": 512,
    "samples": 1,
    "seeds": 1,
    "dtype": "float64",
    "device": "cpu",
}
DTYPES = {"float32": torch.float32, "float64": torch.float64}
#: what belongs to the input; all else in ``DEFAULTS`` belongs to what is measured
OF_THE_INPUT = ("n", "samples")


@dataclass(frozen=True)
class Request:
    """Size, number, dtype and place of the cases of one call; None where not given.

    Attributes
    ----------
    n, d : length and width of the input and of named layers.
    samples, seeds : numbers of inputs, and of draws of the weights, from ``seed`` on.
    dtype, device : of weights and input.
    budget : bytes, or a size such as ``"4GiB"``.

    Examples
    --------
    >>> asked = Request(n=30)
    >>> asked.given(), asked.of("n"), asked.of("d")
    ({'n': 30}, 30, 512)
    """

    n: int | None = None
    d: int | None = None
    samples: int | None = None
    seeds: int | None = None
    seed: int = 0
    dtype: str | None = None
    device: str | None = None
    budget: int | str = DEFAULT_MEMORY

    def of(self, name: str) -> Any:
        """A value as given, or the default."""
        value = getattr(self, name)
        return DEFAULTS[name] if value is None else value

    def given(self) -> dict[str, Any]:
        """What the call gave, by name."""
        return {name: getattr(self, name) for name in DEFAULTS if getattr(self, name) is not None}

    @property
    def memory(self) -> int:
        """The budget in bytes."""
        return parse_bytes(self.budget) if isinstance(self.budget, str) else self.budget


def refuse(given: Mapping[str, Any], meaningless: Iterable[tuple[str, str]]) -> None:
    """Refuse arguments that were given and have no meaning in the call, all of them in one message.

    Parameters
    ----------
    given : name -> value of what the call gave; None stands for not given.
    meaningless : (name, reason) of what would be ignored.

    Raises
    ------
    BadInput : naming each with its value and the reason.

    Examples
    --------
    >>> refuse({"n": 9, "d": None}, [("n", "x brings its own"), ("d", "x brings its own")])
    Traceback (most recent call last):
    depprobe.errors.BadInput: n=9 has no meaning in this call (x brings its own): leave it out
    """
    why: dict[str, list[str]] = {}
    for name, reason in meaningless:
        if given.get(name) is not None:
            why.setdefault(reason, []).append(f"{name}={_short(given[name])}")
    if not why:
        return
    groups = [f"{', '.join(names)} ({reason})" for reason, names in why.items()]
    if sum(map(len, why.values())) == 1:
        name, _, reason = groups[0].partition(" (")
        raise BadInput(f"{name} has no meaning in this call ({reason}: leave it out")
    raise BadInput(f"arguments without meaning in this call: {'; '.join(groups)}: leave them out")


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 40 else text[:37] + "..."


def device_of(name: str) -> torch.device:
    """A device that is there and holds values; raises ``BadInput`` naming those that are."""
    try:
        device = torch.device(name)
        # reading a value back tells devices that hold none
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError):
        have = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
        have += ["mps"] if torch.backends.mps.is_available() else []
        raise BadInput(f"no device {name!r} here; there is {', '.join(have)}") from None
    return device


def check_dtype(dtype: str) -> None:
    """Refuse a dtype that is not one to measure with."""
    if dtype in ("float16", "bfloat16"):
        raise BadInput(f"{dtype} has too few digits to measure with: use --dtype float32")
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
