"""The dataset of one cell as its file holds it, read variable by variable.

Cells of one probe mostly hold the same variables over the same dimensions. The first of each kind is loaded
as a labelled dataset; the others are read straight through HDF5, which takes a tenth of the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from depprobe.curves.banded import dense
from depprobe.errors import BadInput
from depprobe.store.atomic import one_line
from depprobe.store.files import load

#: attributes that say how one cell came about
_ITS_OWN = ("provenance", "title")
Signature = tuple[tuple[str, tuple[int, ...], str], ...]


@dataclass(frozen=True)
class StoredCell:
    """A file, a labelled dataset of its kind, and what is its own: labels and attributes.

    ``banded`` says that blocks over lags are read as blocks over sources.
    """

    path: Path
    like: xr.Dataset
    labels: Mapping[str, NDArray[Any]]
    attrs: Mapping[str, Any]
    banded: bool = False

    def values(self, name: str) -> NDArray[Any]:
        """The values of a variable."""
        if self.banded:
            return dense(load(self.path))[name].values
        with h5py.File(self.path, locking=False) as file:
            return _values(file[name])

    def expanded(self) -> StoredCell:
        """The same with blocks over (target, source) where they are stored over (target, lag)."""
        if "lag" not in self.like.dims:
            return self
        whole = _without_lags(dense(load(self.path)))
        labels = {str(name): whole[name].values for name in whole.coords}
        return StoredCell(self.path, whole, labels, self.attrs, banded=True)


class Reader:
    """Reads cells; knows the kinds that it has met."""

    def __init__(self) -> None:
        self._kinds: dict[Signature, xr.Dataset] = {}

    def read(self, path: Path) -> StoredCell:
        """One cell, whose checksum was looked at; raises ``BadInput`` where it is no dataset all the same."""
        try:
            with h5py.File(path, locking=False) as file:
                items, about = dict(file.items()), file.attrs
                signature = tuple((name, item.shape, item.dtype.str) for name, item in items.items())
                if signature not in self._kinds:
                    self._kinds[signature] = _without_lags(load(path))
                like = self._kinds[signature]
                labels = {str(name): _values(items[str(name)]) for name in like.coords}
                attrs = {str(name): _plain(about[name]) for name in like.attrs if name not in _ITS_OWN}
                for name in like.data_vars:
                    if "kind" in like[name].attrs:
                        attrs["kind"] = _plain(items[str(name)].attrs["kind"])
        except BadInput:
            raise
        except Exception as error:  # damage surfaces as whatever the decoder meets first
            raise BadInput(f"cannot read {str(path)!r}: {one_line(error)}") from None
        return StoredCell(path, like, labels, attrs)


def _without_lags(ds: xr.Dataset) -> xr.Dataset:
    # those of blocks follow from the positions of all cells together
    return ds if "lag" in ds.dims else ds.drop_vars("lag", errors="ignore")


def _values(item: h5py.Dataset) -> NDArray[Any]:
    if h5py.check_string_dtype(item.dtype):
        return np.asarray(item.asstr()[()], dtype=str)
    return np.asarray(item[()])


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value[0]
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value
