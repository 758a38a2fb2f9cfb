"""Checkpoints in several files: the index that says which weight stands in which. No torch here.

    model.safetensors.index.json    {"weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}}

The files stand beside the index. It is data: names that lead out of its folder are refused.
"""

from __future__ import annotations

from pathlib import Path

from depprobe.errors import BadInput
from depprobe.models.json_object import object_in

#: how names of an index end
INDEX = ".index.json"


def shards_of(path: Path, suffixes: tuple[str, ...]) -> dict[Path, set[str]]:
    """The files of an index, and the names of the weights that each is to hold.

    Raises
    ------
    BadInput : no such file, no JSON (it is said where), no index, or a file that is not beside it or of
        another kind than ``suffixes``.
    """
    if not path.is_file():
        raise BadInput(f"no such file of weights: {str(path)!r}")
    placed = object_in(path).get("weight_map")
    if not (isinstance(placed, dict) and placed and all(isinstance(one, str) for one in placed.values())):
        raise BadInput(f"{str(path)!r} is no index of weights: it has no weight_map of names and files")
    found: dict[Path, set[str]] = {}
    for name, file in placed.items():
        if file != Path(file).name or "\\" in file or not file.endswith(suffixes):
            raise BadInput(
                f"{str(path)!r} places {name!r} in {file!r:.60}, which is no file of weights beside it "
                f"({', '.join(suffixes)})"
            )
        found.setdefault(path.with_name(file), set()).add(name)
    absent = [file.name for file in found if not file.is_file()]
    if absent:
        raise BadInput(f"{str(path)!r} needs {absent[0]!r} beside it, which is not there")
    return found
