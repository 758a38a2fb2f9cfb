"""The ledger's table: every file of the ledger that defines ``CLAIM``, by id."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping

from depprobe.errors import BadInput, unknown
from depprobe.ledger.claim import Claim

PACKAGE = "depprobe.ledger"


class Ledger(Mapping[str, Claim]):
    """Statements by id, in the order of their numbers; read when first asked.

    Examples
    --------
    >>> claims["C6"].id
    'C6'
    """

    def __init__(self) -> None:
        self._entries: dict[str, Claim] = {}

    def _read(self) -> dict[str, Claim]:
        if not self._entries:
            found: dict[str, Claim] = {}
            for module in pkgutil.walk_packages(importlib.import_module(PACKAGE).__path__, f"{PACKAGE}."):
                claim = getattr(importlib.import_module(module.name), "CLAIM", None)
                if claim is None:
                    continue
                if claim.id in found:
                    raise BadInput(f"two files define {claim.id}: {module.name} is the second")
                found[claim.id] = claim
            self._entries = dict(sorted(found.items(), key=lambda entry: int(entry[0][1:])))
        return self._entries

    def __getitem__(self, name: str) -> Claim:
        entries = self._read()
        if name.upper() not in entries:
            raise unknown("claim", name, entries)
        return entries[name.upper()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())


#: every statement
claims = Ledger()
