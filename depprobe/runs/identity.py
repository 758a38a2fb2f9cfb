"""What tells a case from others under its label: its input and, of a user's model, its weights and its code.

weights, buffers, arrays    by their bits          functions    by their bytecode, with what it refers to
objects of the user's       by what they hold      classes      by their functions, and the files with them
all else                    as it prints, without addresses in memory
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
from torch import Tensor, nn

from depprobe.core.calling.arguments import bits_of
from depprobe.runs.cases import Case
from depprobe.runs.labelling import fingerprint, numbers_of

#: packages whose code is known by their version, or bears on nothing
_FOREIGN = frozenset(sys.stdlib_module_names) - {"__main__"} | {"torch", "numpy", "depprobe"}
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def identity_of(case: Case | None) -> dict[str, Any]:
    """The facts that tell a case from others under its label, but for its seed."""
    if case is None:
        return {}
    known = {"input": fingerprint(numbers_of([case]))}
    if not isinstance(case.given, Tensor):
        known["arguments"] = digest_of(case.given)
    if case.named:
        return known
    module = case.build()
    files = _files_of({type(part) for part in module.modules()})
    return known | {"model": digest_of([module, [path.read_bytes() for path in files]])}


def digest_of(value: Any) -> str:
    """A hash of a value and of all that it holds or calls.

    Examples
    --------
    >>> digest_of({"mask": np.ones(3)}) == digest_of({"mask": np.ones(3)})
    True
    >>> digest_of((lambda x: 2 * x).__code__) == digest_of((lambda x: 3 * x).__code__)
    False
    """
    digest = hashlib.sha256()
    _feed(digest.update, value, {})
    return digest.hexdigest()


def _feed(update: Any, value: Any, seen: dict[int, tuple[int, Any]]) -> None:
    """Hand all that tells a value to ``update``; ``seen`` numbers what was handed over, by its id."""
    atom = isinstance(value, str | bytes | int | float | complex | bool | type(None))
    if not atom and id(value) in seen:
        update(f"{seen[id(value)][0]};".encode())
        return
    seen[id(value)] = len(seen), value
    update(f"{type(value).__qualname__}:".encode())
    if isinstance(value, bytes):
        update(value)
    elif isinstance(value, Tensor):
        update(f"{value.dtype}{tuple(value.shape)}".encode())
        update(bits_of(value.to_dense() if not value.is_meta else value.new_empty(0, device="cpu")))
    elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
        update(f"{value.dtype.str}{value.shape}".encode() + value.tobytes())
    elif isinstance(value, str):
        update(f"{len(value)}{_ADDRESS.sub('', value)}".encode(errors="replace"))
    else:
        parts = list(_parts(value))
        update(f"{len(parts)}".encode())
        for part in parts:
            _feed(update, part, seen)


def _parts(value: Any) -> Iterable[Any]:
    """What a value is made of, or how it prints."""
    if isinstance(value, Mapping):
        return [part for key in sorted(value, key=str) for part in (str(key), value[key])]
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if isinstance(value, CodeType):
        return [value.co_code, value.co_names, value.co_consts]
    if isinstance(value, MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, FunctionType) and _is_own(value):
        cells = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
        globals_ = [value.__globals__.get(name) for name in value.__code__.co_names]
        return [value.__code__, value.__defaults__, value.__kwdefaults__, cells, globals_]
    if isinstance(value, type) and _is_own(value):
        own = [item for name, item in sorted(vars(value).items()) if name in _CALLED or name[:2] != "__"]
        return [value.__qualname__, value.__bases__, own]
    if isinstance(value, nn.Module):
        held = {name: item for name, item in vars(value).items() if name[0] != "_"}
        hooks = [value._forward_pre_hooks, value._forward_hooks]
        inner = [value._parameters, value._buffers, value._modules]
        return [type(value), held, inner, [list(found.values()) for found in hooks]]
    if hasattr(value, "__dict__") and not isinstance(value, type | FunctionType) and _is_own(type(value)):
        return [type(value), vars(value)]
    return [repr(value)]


#: methods with underscores that may be a part of a forward
_CALLED = ("__init__", "__call__", "__getattr__", "__getitem__")


def _is_own(code: Any) -> bool:
    """Whether a function or class is the user's, from a file of theirs or from a notebook."""
    name = getattr(code, "__module__", None) or ""
    file = getattr(sys.modules.get(name), "__file__", None) or ""
    return name.partition(".")[0] not in _FOREIGN and "site-packages" not in Path(file).parts


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _files_of(kinds: set[type]) -> list[Path]:
    """The files that hold these classes, and loaded ones in the folders of those outside torch."""
    found = {getattr(sys.modules.get(kind.__module__), "__file__", None) for kind in kinds}
    files = {file for file in found if file and file.endswith(".py")}
    folders = {os.path.dirname(file) for file in files if "site-packages" not in Path(file).parts}
    if folders:
        loaded = {getattr(module, "__file__", None) or "" for module in list(sys.modules.values())}
        # names, not paths, of which thousands take a tenth of a second
        files |= {file for file in loaded if file.endswith(".py") and os.path.dirname(file) in folders}
    return sorted(path for file in files if (path := Path(file)).is_file())
