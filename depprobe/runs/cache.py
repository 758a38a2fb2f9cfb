"""What a probe keeps of a run until all of it is there, so that an interrupted run goes on.

Kept as in ``store.finished``, by facts: module, weights' seed, options, input, and the machine where it bears
on the result. ``holding`` makes fields of a result, and back.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import fields as fields_of
from typing import Any, Generic, TypeAlias, TypeVar

from depprobe.errors import BadInput
from depprobe.operators import LogNorms
from depprobe.runs.result import Result
from depprobe.store.finished import Fields, Finished

Found = TypeVar("Found")
_NORMS = tuple(field.name for field in fields_of(LogNorms))


#: where finished cases are kept: a folder's name, or the folder as such
Place: TypeAlias = Finished | str | os.PathLike[str]


@dataclass(frozen=True)
class Holding(Generic[Found]):
    """A folder of finished cases that takes and gives what one probe measures."""

    folder: Finished
    fields_of: Callable[[Found], Fields]
    made_of: Callable[[Fields], Found]

    def claim(self) -> None:
        """As of the folder."""
        self.folder.claim()

    def get(self, facts: dict[str, Any]) -> Found | None:
        """What was measured under these facts before, or None; what does not fit is measured again."""
        known = self.folder.get(facts)
        try:
            return None if known is None else self.made_of(known)
        except (KeyError, TypeError, ValueError):
            return None

    def put(self, facts: dict[str, Any], found: Found) -> None:
        """Keep what was measured."""
        self.folder.put(facts, self.fields_of(found))


def as_it_is(found: Any) -> Any:
    """Fields that are the result themselves."""
    return dict(found)


def holding(
    finished: Any,
    fields_of: Callable[[Found], Fields] = as_it_is,
    made_of: Callable[[Fields], Found] = as_it_is,
) -> Holding[Found] | None:
    """Where a probe keeps its finished cases, or None; raises ``BadInput`` for what is no such place."""
    if finished is None:
        return None
    if not isinstance(finished, Finished | str | os.PathLike):
        raise BadInput(f"finished must be a folder in which to keep finished cases, not {finished!r:.60}")
    folder = finished if isinstance(finished, Finished) else Finished(finished)
    return Holding(folder, fields_of, made_of)


def fields_of_results(found: list[Result]) -> Fields:
    """Norms of one case at every depth as fields, ``0.values``, ``0.target``, ..."""
    fields: Fields = {}
    for i, one in enumerate(found):
        known = {name: value for name, value in vars(one).items() if name != "norms"} | vars(one.norms)
        fields |= {f"{i}.{name}": value for name, value in known.items()}
    return fields


def results_of(every: Fields) -> list[Result]:
    """Norms of one case at every depth; raises ``ValueError`` where they do not fit together."""
    depths = sorted({int(name.partition(".")[0]) for name in every})
    found = [
        _result({name.removeprefix(f"{i}."): v for name, v in every.items() if name.startswith(f"{i}.")})
        for i in depths
    ]
    if not found or any(len(one.norms.values) != len(one.target) for one in found):
        raise ValueError("norms and targets of different numbers")
    return found


def _result(fields: Fields) -> Result:
    norms = LogNorms(**{name: fields.pop(name) for name in _NORMS if name in fields})
    rest: dict[str, Any] = {name: str(fields[name]) for name in ("method", "error_kind", "zero_proof")}
    rest |= {name: float(fields[name]) for name in ("tolerance", "log_floor")}
    shape = tuple(int(size) for size in fields["shape"])
    rest |= {name: int(fields[name]) for name in ("probes", "deflated")}
    return Result(norms, fields["target"], fields.get("position"), shape=shape, **rest)
