"""What of a call has no meaning, or is not to be had: asked for, or refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from depprobe.errors import BadInput


def refuse(given: Mapping[str, Any], meaningless: Iterable[tuple[str, str]]) -> None:
    """Refuse arguments that were given and have no meaning in the call, all of them in one message.

    ``given`` holds name -> value, None for what was not given; ``meaningless`` (name, reason) of what would
    be ignored. The ``BadInput`` raised names each with its value and the reason.

    Examples
    --------
    >>> refuse({"n": 9, "d": None}, [("n", "x brings its own"), ("d", "x brings its own")])
    Traceback (most recent call last):
    depprobe.errors.BadInput: n=9 has no meaning in this call (x brings its own): leave it out
    """
    why: dict[str, list[str]] = {}
    for name, reason in meaningless:
        if given.get(name) is not None:
            text = " ".join(repr(given[name]).split())
            why.setdefault(reason, []).append(f"{name}={text if len(text) <= 40 else text[:37] + '...'}")
    if not why:
        return
    groups = [f"{', '.join(names)} ({reason})" for reason, names in why.items()]
    if sum(map(len, why.values())) == 1:
        name, _, reason = groups[0].partition(" (")
        raise BadInput(f"{name} has no meaning in this call ({reason}: leave it out")
    raise BadInput(f"arguments without meaning in this call: {'; '.join(groups)}: leave them out")
