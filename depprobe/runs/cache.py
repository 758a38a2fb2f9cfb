"""Finished cases of a long run, kept on disk until all are there, so that an interrupted run goes on.

Each case is one file, .npz or JSON, named by a hash of all that bears on it (module, weights' seed, options,
input, and the machine where that does), so that nothing stale is ever taken up.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from depprobe.runs.labelling import Result
from depprobe.operators import LogNorms
from depprobe.store import replacing


class Finished:
    """The finished cases of one run, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, facts: dict[str, Any], x: np.ndarray) -> Path:
        return self.folder / f"{_mark(facts, np.ascontiguousarray(x).tobytes())}.npz"

    def get(self, facts: dict[str, Any], x: np.ndarray) -> Result | None:
        """The result of a case measured before, or None."""
        try:
            with self._path(facts, x).open("rb") as stream, np.load(stream, allow_pickle=False) as kept:
                fields = {name: kept[name] for name in kept.files}
            optional = {name: fields.get(name) for name in ("error", "stderr", "lags")}
            return Result(
                LogNorms(fields["values"], **optional),
                fields["target"],
                fields["position"],
                str(fields["method"]),
                float(fields["tolerance"]),
                tuple(int(size) for size in fields["shape"]),  # type: ignore[arg-type]
            )
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None  # a damaged one is measured again

    def put(self, facts: dict[str, Any], x: np.ndarray, result: Result) -> None:
        """Keep the result of a case; written under another name and renamed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(facts, x)
        fields = {
            name: getattr(result, name) for name in ("target", "position", "method", "tolerance", "shape")
        }
        norms = {name: getattr(result.norms, name) for name in ("values", "error", "stderr", "lags")}
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as stream:
            np.savez(stream, **fields, **{name: value for name, value in norms.items() if value is not None})
        os.replace(temporary, path)

    def clear(self) -> None:
        """Remove the folder: the run is whole."""
        shutil.rmtree(self.folder, ignore_errors=True)


class FinishedPoints:
    """The finished points of one run whose results are numbers by name, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, facts: dict[str, Any]) -> dict[str, Any] | None:
        """The numbers of a point measured before, or None."""
        try:
            kept = json.loads((self.folder / f"{_mark(facts)}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None  # a damaged one is measured again
        return kept if isinstance(kept, dict) else None

    def put(self, facts: dict[str, Any], numbers: dict[str, Any]) -> None:
        """Keep the numbers of a point; written under another name and renamed."""
        with replacing(self.folder / f"{_mark(facts)}.json") as temporary:
            temporary.write_text(json.dumps(numbers), encoding="utf-8")

    def clear(self) -> None:
        """Remove the folder: the run is whole."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _mark(facts: dict[str, Any], data: bytes = b"") -> str:
    mark = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    mark.update(data)
    return mark.hexdigest()[:24]
