"""What every study script shares: its options, and where its dataset and figure go."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import xarray as xr
from matplotlib.figure import Figure

from depprobe import store
from depprobe.errors import DepprobeError
from depprobe.figures import save

#: where studies write unless told otherwise
OUT = Path(__file__).parent / "out"


def main(compute: Callable[[bool], xr.Dataset], plot: Callable[[xr.Dataset], Figure], name: str) -> None:
    """Compute a study and write ``<name>.nc``, ``<name>.pdf`` and ``<name>.png``.

    ``--quick`` computes the small version, ``--out DIR`` writes there instead of ``studies/out``, and
    ``--plot`` draws the stored dataset again without computing.

    Parameters
    ----------
    compute : from ``quick`` to the dataset.
    plot : from the dataset to the figure.
    name : file name without suffix.
    """
    description = (sys.modules[compute.__module__].__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="the small version, under a minute")
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help="where to write")
    parser.add_argument("--plot", action="store_true", help="draw the stored dataset again")
    given = parser.parse_args()
    data = given.out / f"{name}.nc"
    try:
        ds = store.load(data) if given.plot else compute(given.quick)
        if not given.plot:
            store.save(ds, data)
        figure = plot(ds)
        drawn = [save(figure, data.with_suffix(suffix)) for suffix in (".pdf", ".png")]
    except DepprobeError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print("\n".join(str(path) for path in (data, *drawn)))
