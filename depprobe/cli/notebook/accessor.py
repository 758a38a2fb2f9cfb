"""``ds.depprobe``: what can be done with a dataset, said of the dataset itself.

ds.depprobe.distances()    ds.depprobe.decay()    ds.depprobe.plot()    ds.depprobe.lag

As the value of a notebook's cell, ``ds.depprobe`` is the figure, and the table that ``depprobe show`` prints.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from depprobe.cli.plotting import NO_FIGURE
from depprobe.cli.summaries import NO_TABLE, TELL, summary_of
from depprobe.curves.align import with_lag
from depprobe.errors import BadInput, DepprobeError, harmless

#: kind of dataset -> its figure, where it has another name
_FIGURES = {"jacobian": "decay"}
#: most variables that are named
_NAMED = 4


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

    def decay(self, **how: Any) -> xr.Dataset:
        """The decay curve, as ``depprobe.decay_curve`` gives it; ``how`` are its options."""
        from depprobe.curves import decay_curve

        return decay_curve(self._ds, **how)

    def plot(self, **how: Any) -> Any:
        """The figure of this kind of dataset; ``how`` are options of its function in ``depprobe.figures``."""
        from depprobe import figures  # matplotlib takes a while to load

        if self._kind is None:
            held = [*map(str, self._ds.data_vars)]
            named = ", ".join([*held[:_NAMED], *(["..."] if len(held) > _NAMED else [])])
            raise BadInput(f"no figure for a dataset of {named or 'nothing'}")
        if self._kind in NO_FIGURE:
            raise BadInput(NO_FIGURE[self._kind])
        return getattr(figures, _FIGURES.get(self._kind, self._kind))(self._ds, **how)

    @property
    def _kind(self) -> str | None:
        return next((kind for kind, variable in TELL.items() if variable in self._ds.data_vars), None)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{dim} {size}" for dim, size in self._ds.sizes.items()) or "no dimensions"
        about = self._ds.coords.get("layer", self._ds.attrs.get("layer"))
        layers = ", ".join(map(str, np.ravel(about))) if about is not None else ""
        what = " ".join([*filter(None, [self._kind]), "dataset", *(["of", layers] if layers else [])])
        calls = (
            "plot(), distances(), decay(), lag"
            if self._kind == "jacobian"
            else "plot()"
            if self._kind and self._kind not in NO_FIGURE
            else ""
        )
        return f"<depprobe: {harmless(what)} ({sizes}){'; ' * bool(calls)}{calls}>"

    def _repr_html_(self) -> str:
        from depprobe.cli.notebook.html_table import as_html
        from depprobe.figures.displaying import escaped

        def or_why_not(made: Callable[[], str]) -> str:
            try:
                return made()
            except DepprobeError as error:
                return f"<p>{escaped(str(error))}</p>"

        if self._kind is None:
            return f"<p>{escaped(repr(self))}</p>"
        figure = [or_why_not(lambda: self.plot()._repr_html_())] if self._kind not in NO_FIGURE else []
        table = [or_why_not(lambda: as_html(summary_of(self._ds)))] if self._kind not in NO_TABLE else []
        # a dataset that can be neither drawn nor summarised is so for one reason
        return "\n".join(dict.fromkeys([*figure, *table]))

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
