"""``ds.depprobe``: what can be done with a dataset, said of the dataset itself.

ds.depprobe.distances()    ds.depprobe.decay()    ds.depprobe.plot()    ds.depprobe.lag
"""

from __future__ import annotations

from typing import Any

import xarray as xr

from depprobe.curves.align import with_lag
from depprobe.errors import BadInput
from depprobe.vocabulary import KINDS

#: kind of dataset -> its figure, where it has another name
_FIGURES = {"jacobian": "decay"}


class Accessor:
    """Methods of a dataset that this package measured or loaded.

    Parameters
    ----------
    ds : the dataset.

    Examples
    --------
    >>> import numpy as np
    >>> _ = register()
    >>> ds = xr.Dataset(
    ...     {"log_norm": (("target", "source"), [-np.arange(19.0, -1, -1)])},
    ...     coords={"target": [19], "source": np.arange(20), "position": ("target", [19.0])},
    ... )
    >>> round(ds.depprobe.distances().decay_rate.item(), 6), ds.depprobe.lag.values[0, :3].tolist()
    (-1.0, [19, 18, 17])
    """

    def __init__(self, ds: xr.Dataset) -> None:
        self._ds = ds

    def distances(self, **how: Any) -> xr.Dataset:
        """What ``depprobe.distances`` finds; ``how`` are its options."""
        from depprobe.curves import distances

        return distances(self._ds, **how)

    def decay(self) -> xr.Dataset:
        """The decay curve, as ``depprobe.decay_curve`` gives it."""
        from depprobe.curves import decay_curve

        return decay_curve(self._ds)

    def plot(self, **how: Any) -> Any:
        """The figure of this kind of dataset; ``how`` are options of its function in ``depprobe.figures``."""
        from depprobe import figures  # matplotlib takes a while to load

        for kind, variable in (KINDS | {"decay": "log_median"}).items():
            if variable in self._ds.data_vars:
                return getattr(figures, _FIGURES.get(kind, kind))(self._ds, **how)
        raise BadInput(f"no figure for a dataset of {', '.join(map(str, self._ds.data_vars)) or 'nothing'}")

    @property
    def lag(self) -> xr.DataArray:
        """The coordinate ``lag``: position - source of every block, or the lags of a banded dataset."""
        ds = with_lag(self._ds)
        if "lag" not in ds.coords:
            raise BadInput("lags need log_norm with the coordinates position and source, as a Jacobian has")
        return ds["lag"]


def register() -> type[Accessor]:
    """Make ``ds.depprobe`` known to xarray, once."""
    if not hasattr(xr.Dataset, "depprobe"):
        xr.register_dataset_accessor("depprobe")(Accessor)
    return Accessor
