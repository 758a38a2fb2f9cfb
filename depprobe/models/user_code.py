"""A model of the user's own by where its code stands: ``FILE.py:NAME`` or ``package.module:NAME``.

NAME is an ``nn.Module``, or what makes one: a function ``seed -> nn.Module`` or ``() -> nn.Module``, a class.
Naming the code is what permits running it; nothing else that a user hands over (weights, tables) is run.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from depprobe.errors import BadInput, DepprobeError, unknown

FORMS = "FILE.py:FACTORY or package.module:FACTORY"
_COUNT = itertools.count()


class Factory:
    """A factory found in a user's code, which finds its neighbours there also when it imports them late.

    Attributes
    ----------
    make : the function or class.
    folder : where its imports are looked up first.
    """

    def __init__(self, make: Any, folder: Path) -> None:
        self.make, self.folder = make, folder
        self.__name__ = getattr(make, "__name__", type(make).__name__)
        # read by inspect.signature: whether it takes a seed
        self.__wrapped__ = make

    def __call__(self, *seed: int) -> Any:
        with importable(self.folder):
            return self.make(*seed)


def find(text: str) -> nn.Module | Factory:
    """The module or factory that ``FILE.py:NAME`` or ``package.module:NAME`` names; runs that code.

    Raises
    ------
    BadInput : no such file, module or name, code that fails, or a name that is neither module nor callable.

    Examples
    --------
    >>> find("torch.nn:Identity")()
    Identity()
    """
    where, colon, name = text.rpartition(":")
    if not (where and colon and name):
        raise BadInput(f"a model is named {FORMS}, not {text!r}")
    is_file = where.endswith(".py") or "/" in where or "\\" in where
    folder = Path(where).resolve().parent if is_file else Path.cwd()
    with importable(folder), _failing(where):
        code = _run(Path(where)) if is_file else _imported(where)
    found: Any = code
    for part in name.split("."):
        if not hasattr(found, part):
            # what a file has imported or keeps to itself is not what it offers
            offered = [key for key, value in vars(found).items() if callable(value) and key[0] != "_"]
            own = [key for key in offered if getattr(vars(found)[key], "__module__", "") == code.__name__]
            raise unknown(f"name in {where}", name, own or offered)
        found = getattr(found, part)
    if isinstance(found, nn.Module):
        return found
    if not callable(found):
        raise BadInput(
            f"{text} is {type(found).__name__}; it must be an nn.Module or a function that makes one"
        )
    return Factory(found, folder)


def _run(path: Path) -> ModuleType:
    if not path.is_file():
        near = sorted(other.name for other in path.parent.glob("*.py")) if path.parent.is_dir() else []
        raise (
            unknown(f"file in {path.parent}", path.name, near)
            if near
            else BadInput(f"no such file {str(path)!r}")
        )
    # a name of its own: random.py of a user's must not stand in for Python's
    name = f"depprobe_user_code_{next(_COUNT)}_{re.sub(r'[^0-9A-Za-z_]', '_', path.stem)}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise BadInput(f"{str(path)!r} is not a Python file; a model is named {FORMS}")
    code = importlib.util.module_from_spec(spec)
    sys.modules[name] = code
    try:
        spec.loader.exec_module(code)
    except BaseException:
        del sys.modules[name]
        raise
    return code


def _imported(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise BadInput(f"{name!r} is neither a .py file nor a module; a model is named {FORMS}")
    return importlib.import_module(name)


@contextlib.contextmanager
def importable(folder: Path) -> Iterator[None]:
    """While the user's code runs, modules beside it are found, as when Python runs the file.

    What it prints goes to stderr: stdout is for results.
    """
    sys.path.insert(0, str(folder))
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))


@contextlib.contextmanager
def _failing(where: str) -> Iterator[None]:
    """Tell a fault of the user's code in one line that says where it stands."""
    try:
        yield
    except DepprobeError:
        raise
    except (Exception, SystemExit) as error:
        said = " ".join(str(error).split())
        line = ""
        trace = error.__traceback__
        while trace is not None:
            if Path(trace.tb_frame.f_code.co_filename).name == Path(where).name:
                line = f", line {trace.tb_lineno}"
            trace = trace.tb_next
        if isinstance(error, SyntaxError):
            line, said = f", line {error.lineno}", error.msg
        raise BadInput(f"{where}{line} could not be run: {type(error).__name__}: {said}") from error
