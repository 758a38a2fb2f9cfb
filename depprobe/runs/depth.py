"""Cases along depth: a name with stars in ``of`` or ``wrt`` is a case for every submodule it names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from depprobe.core.calling.outputs import depths
from depprobe.errors import BadInput
from depprobe.runs.cases import Case


class Point(NamedTuple):
    """One case with a numerator and a denominator, none of them with stars."""

    case: Case
    of: str
    wrt: str


def along_depth(cases: Sequence[Case], of: str, wrt: str) -> tuple[list[Point], list[str]]:
    """Every case at every depth, depth fastest, and the submodules; no submodules where no star is given.

    Raises
    ------
    BadInput : stars in both names, a name without a submodule, or layers with different numbers of them.
    """
    starred = [name for name in (of, wrt) if "*" in name]
    if len(starred) > 1:
        raise BadInput(f"of={of!r} and wrt={wrt!r} both run along depth; give one of them without a star")
    if not starred:
        return [Point(case, of, wrt) for case in cases], []
    found: dict[str, list[str]] = {}
    for case in cases:
        if case.label not in found:
            found[case.label] = depths(case.build(), starred[0])
    counts = {label: len(names) for label, names in found.items()}
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{count} in {label}" for label, count in counts.items())
        raise BadInput(f"{starred[0]!r} names different numbers of submodules: {said}")
    points = [
        Point(case, name if "*" in of else of, name if "*" in wrt else wrt)
        for case in cases
        for name in found[case.label]
    ]
    return points, next(iter(found.values()))
