"""JSON files beside a model's weights: the object that one holds, or where it is damaged. No torch here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from depprobe.errors import BadInput

#: most bytes of such a file
_LONGEST = 1 << 26


def object_in(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises
    ------
    BadInput : the file cannot be read, is no JSON (the message says where), or holds no object.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "config.json").write_text('{"width": 3}')
    ...     object_in(Path(folder, "config.json"))
    {'width': 3}
    """
    try:
        if path.stat().st_size > _LONGEST:
            raise BadInput(f"it holds more than {_LONGEST >> 20} MiB")
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict):
            raise BadInput(f"it holds {type(found).__name__}, not an object of names and values")
    except (OSError, ValueError, RecursionError, BadInput) as error:
        raise BadInput(f"cannot read {str(path)!r}: {_fault(error)}") from None
    return found


def _fault(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        place = f"{error.msg} at line {error.lineno}, column {error.colno}"
        ends = ", where the file ends" if error.pos >= len(error.doc.rstrip()) else ""
        return f"it is not JSON: {place}{ends}"
    if isinstance(error, UnicodeDecodeError):
        return f"it is not JSON: byte {error.start} is no {error.encoding} text"
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    return str(getattr(error, "strerror", None) or error)
