"""Measurements kept on disk, one file a statement, and taken up again by the same command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import xarray as xr

from depprobe.ledger.claim import Claim
from depprobe.ledger.evidence import command_of
from depprobe.ledger.progress import Progress
from depprobe.store.finished import Finished
from depprobe.vocabulary import SCHEMA_VERSION


@dataclass(frozen=True)
class ClaimCache:
    """Measurements in ``folder``; ``fresh`` measures again whatever is there, with so many ``threads``.

    Examples
    --------
    >>> ClaimCache(Path("runs/claims"), quick=True).path("C6").as_posix()
    'runs/claims/C6_quick_seed0.nc'
    """

    folder: Path
    quick: bool = False
    seed: int = 0
    fresh: bool = False
    threads: int = 1

    def path(self, name: str) -> Path:
        """Where the measurement of a statement is kept."""
        return self.folder / f"{name}_{'quick' if self.quick else 'full'}_seed{self.seed}.nc"

    def of(self, claim: Claim, progress: Progress | None = None) -> xr.Dataset:
        """The dataset of a statement: as kept if the same command of the same code made it, else measured.

        Raises
        ------
        BadInput : the folder cannot be written.
        """

        def measured() -> xr.Dataset:
            with _computing(self.threads):
                return claim.measure(self.quick, progress, self.seed)

        return self.taken(claim.id, measured)

    def taken(self, name: str, measured: Callable[[], xr.Dataset]) -> xr.Dataset:
        """The dataset of a statement: as kept, else as measured, and then kept."""
        facts = {"command": command_of(name, self.quick, self.seed), "schema": SCHEMA_VERSION}
        return Finished(self.folder).dataset(facts, measured, self.path(name).stem, self.fresh)


@contextmanager
def _computing(threads: int) -> Iterator[None]:
    """Compute with so many threads; what is kept already is judged without loading torch."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
