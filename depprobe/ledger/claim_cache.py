"""Measurements kept on disk, one file a statement, and taken up again by the same command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import xarray as xr

from depprobe import store
from depprobe._version import __version__
from depprobe.errors import BadInput
from depprobe.ledger.claim import Claim
from depprobe.ledger.evidence import command_of
from depprobe.ledger.progress import Progress
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
        """The dataset of a statement: as kept if the same command of the same version made it, else measured.

        Raises
        ------
        BadInput : the folder cannot be written.
        """
        path = self.path(claim.id)
        if not self.fresh:
            try:
                ds = store.load(path)
            except BadInput:
                pass  # not measured yet, or damaged: then it is measured again
            else:
                if self._same(ds, claim.id):
                    return ds
        with _computing(self.threads):
            ds = claim.measure(self.quick, progress, self.seed)
        store.save(ds, path)
        return ds

    def _same(self, ds: xr.Dataset, name: str) -> bool:
        try:
            command = json.loads(str(ds.attrs.get("provenance"))).get("command")
        except ValueError:
            return False
        return (command, ds.attrs.get("depprobe_version"), ds.attrs.get("schema_version")) == (
            command_of(name, self.quick, self.seed),
            __version__,
            SCHEMA_VERSION,
        )


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
