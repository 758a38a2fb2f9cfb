"""What every study script shares: its options, where its files go, and what is checked of its numbers.

    compute(quick) -> Dataset        plot(dataset) -> Figure        summary(dataset) -> numbers by name

A frozen summary, ``studies/frozen/NAME.json``, holds the numbers of the quick version: a check that they come
out again within the tolerance written there. That they are right is for ``checks``, against results known
apart from this program.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from _sources import everything, unchanged, used
from matplotlib.figure import Figure

from depprobe import __version__, store
from depprobe.cli.progress import progress
from depprobe.errors import DepprobeError
from depprobe.figures import VENUES, save
from depprobe.figures.drawing.venues import venue
from depprobe.ledger import Finding
from depprobe.runs.labelling import provenance
from depprobe.store.finished import Finished
from depprobe.vocabulary import SCHEMA_VERSION

HERE = Path(__file__).parent
#: where studies write unless told otherwise; their quick versions in a folder of it
OUT = HERE / "out"
#: relative tolerance of a frozen number unless its file says otherwise
TOLERANCE = 1e-6
#: numbers below this are what round-off leaves, which differs between processors
ROUND_OFF = 1e-3
CHECK_FAILED = 3

_report: list[Callable[[float, int, str], None]] = []
_finished: list[Finished] = []


def report(done: float, total: int, label: str) -> None:
    """Tell how far a study is; shown where ``main`` runs it."""
    for show in _report:
        show(done, total, label)


def finished() -> Finished | None:
    """Where the probes of a study keep what they have measured until it ends; None outside ``main``."""
    return _finished[-1] if _finished else None


def quoted(findings: Iterable[Finding]) -> dict[str, float]:
    """The numbers of a claim's findings, by part and name."""
    return {f"{one.part}: {name}": number.value for one in findings for name, number in one.numbers.items()}


def attributes(script: str, quick: bool, title: str, layers: Iterable[str], **more: Any) -> dict[str, Any]:
    """What the dataset of a study says of itself."""
    return {
        "title": title,
        "layer": ", ".join(layers),
        "seed": 0,
        **more,
        "depprobe_version": __version__,
        "schema_version": SCHEMA_VERSION,
        "provenance": provenance(f"studies/{Path(script).name}" + " --quick" * quick),
    }


def no_checks(ds: xr.Dataset) -> list[str]:
    """For a study whose numbers have no other source."""
    return []


def main(
    compute: Callable[[bool], xr.Dataset],
    plot: Callable[[xr.Dataset], Figure],
    summary: Callable[[xr.Dataset], Mapping[str, float]],
    script: str,
    *,
    checks: Callable[[xr.Dataset], list[str]] = no_checks,
    tolerance: float = TOLERANCE,
) -> None:
    """Compute a study and write ``NAME.nc``, ``NAME.pdf``, ``NAME.png`` and ``NAME.json``, its provenance.

    Nothing is computed again while the code that made the dataset is as it was, and an interrupted study
    takes up the cases that its probes had finished. ``--quick`` computes the
    small version and compares its summary with the frozen one. Exit codes: 0 done, 2 a wrong call, 3 a check
    failed.

    Parameters
    ----------
    compute : from ``quick`` to the dataset.
    plot : from the dataset to the figure.
    summary : from the dataset to the numbers quoted; no seconds, which differ from run to run.
    script : the script's ``__file__``.
    checks : from the dataset to a line for each truth that it breaks.
    tolerance : relative, of the frozen summary when it is written.
    """
    path = Path(script).resolve()
    title = (sys.modules[compute.__module__].__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--quick", action="store_true", help="the small version, about a minute at most")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: studies/out)")
    parser.add_argument("--venue", choices=VENUES, help="draw in the sizes of a venue")
    parser.add_argument("--plot", action="store_true", help="draw the stored dataset again")
    parser.add_argument("--fresh", action="store_true", help="compute again whatever is stored")
    parser.add_argument(
        "--freeze", action="store_true", help="write the summary that --quick is compared with"
    )
    given = parser.parse_args()
    if given.freeze and not given.quick:
        parser.error("--freeze goes with --quick: the frozen summary is that of the quick version")
    data = (given.out or (OUT / "quick" if given.quick else OUT)) / f"{path.stem}.nc"
    try:
        ds = _dataset(compute, path, data, given)
        with venue(given.venue) if given.venue else nullcontext(_as_it_is) as fitted:
            figure = fitted(plot(ds))
            drawn = [save(figure, data.with_suffix(suffix)) for suffix in (".pdf", ".png")]
        print("\n".join(str(written) for written in (data, *drawn)))
        faults = checks(ds)
        frozen = HERE / "frozen" / f"{path.stem}.json"
        if given.freeze:
            _freeze(frozen, summary(ds), tolerance)
        elif given.quick and not given.plot and frozen.exists():
            faults += differences(json.loads(frozen.read_text(encoding="utf-8")), summary(ds))
    except DepprobeError as error:
        print(f"{path.stem}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print(f"{path.stem}: interrupted", file=sys.stderr)
        sys.exit(130)
    for fault in faults:
        print(f"{path.stem}: check failed: {fault}", file=sys.stderr)
    if faults:
        sys.exit(CHECK_FAILED)


def _as_it_is(figure: Figure) -> Figure:
    return figure


def _dataset(
    compute: Callable[[bool], xr.Dataset], script: Path, data: Path, given: argparse.Namespace
) -> xr.Dataset:
    """The stored dataset where it is asked for or still what would come out, else a new one, stored."""
    facts, mode = data.with_suffix(".json"), "quick" if given.quick else "full"
    if given.plot or (not given.fresh and _still(facts, data, mode)):
        return store.load(data)
    began = time.monotonic()
    # one thread: sums come out bit for bit the same whatever the number of processors
    torch.set_num_threads(1)
    kept = Finished(data.with_name(data.name + ".partial"), code=everything(script), mode=mode)
    if given.fresh:
        kept.clear()
    with progress(quiet=False) as show:
        if show:
            _report.append(show)
        _finished.append(kept)
        try:
            ds = compute(given.quick)
        finally:
            _report.clear()
            _finished.clear()
    store.save(ds, data)
    kept.clear()
    known = {
        "study": script.stem,
        "mode": mode,
        "seconds": round(time.monotonic() - began, 1),
        "dataset": _hash(data),
        "sources": used(script),
        "provenance": json.loads(str(ds.attrs["provenance"])),
    }
    with store.replacing(facts) as temporary:
        temporary.write_text(json.dumps(known) + "\n", encoding="utf-8")
    # read back, so that what is drawn first is what is drawn again
    return store.load(data)


def _still(facts: Path, data: Path, mode: str) -> bool:
    """Whether a stored dataset is whole, of this mode, and made by the code as it is now."""
    try:
        known = json.loads(facts.read_text(encoding="utf-8"))
        return known["mode"] == mode and known["dataset"] == _hash(data) and unchanged(known["sources"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _freeze(path: Path, numbers: Mapping[str, float], tolerance: float) -> None:
    document: dict[str, Any] = {
        "mode": "quick",
        "relative_tolerance": tolerance,
        "numbers": {name: float(value) for name, value in numbers.items()},
    }
    with store.replacing(path) as temporary:
        temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(path)


def differences(frozen: Mapping[str, Any], numbers: Mapping[str, float]) -> list[str]:
    """One line for each number that is not as it was frozen.

    Examples
    --------
    >>> differences({"relative_tolerance": 0.1, "numbers": {"rate": 2.0, "gone": 1.0}}, {"rate": 2.3})
    ['rate is 2.3, not 2 within 0.1', 'gone is not in the summary any more']
    """
    known, tolerance = frozen["numbers"], float(frozen["relative_tolerance"])
    lines = [f"{name} is not in the frozen summary" for name in numbers if name not in known]
    for name, value in known.items():
        if name not in numbers:
            lines.append(f"{name} is not in the summary any more")
            continue
        now = float(numbers[name])
        same = now == value or (math.isnan(now) and math.isnan(value))
        if not same and not math.isclose(now, value, rel_tol=tolerance, abs_tol=ROUND_OFF * tolerance):
            lines.append(f"{name} is {now:.6g}, not {value:.6g} within {tolerance:g}")
    return lines
