"""Names that have changed: the old ones work for a while, and say what to write instead. No torch here.

@renamed_argument("axes", "ax", since="0.3")          of a function
old = renamed(new, "old", since="0.3")                of a function
__getattr__ = moved(__name__, {"old": "depprobe.its.new.home:new"}, since="0.2")      of a module
"""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from depprobe.errors import BadInput

Function = TypeVar("Function", bound=Callable[..., Any])


def _warn(old: str, new: str, since: str) -> None:
    # of the caller of what was renamed
    message = f"{old} is {new} since depprobe {since}; the old name will go"
    warnings.warn(message, DeprecationWarning, stacklevel=3)


def renamed_argument(old: str, new: str, since: str) -> Callable[[Function], Function]:
    """Decorator of a function whose keyword argument has a new name.

    Examples
    --------
    >>> @renamed_argument("size", "n", since="0.3")
    ... def squares(n):
    ...     return [i * i for i in range(n)]
    >>> with warnings.catch_warnings(record=True) as said:
    ...     warnings.simplefilter("always")
    ...     squares(size=3)
    [0, 1, 4]
    >>> print(said[0].message)
    squares(size=...) is squares(n=...) since depprobe 0.3; the old name will go
    """

    def decorate(function: Function) -> Function:
        name = function.__name__

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if old in kwargs:
                if new in kwargs:
                    raise BadInput(f"{name} takes {new}, which was {old}; give one of them")
                _warn(f"{name}({old}=...)", f"{name}({new}=...)", since)
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call  # type: ignore[return-value]

    return decorate


def renamed(function: Function, old: str, since: str) -> Function:
    """A function under its old name.

    Examples
    --------
    >>> width = renamed(len, "width", since="0.3")
    >>> with warnings.catch_warnings(record=True) as said:
    ...     warnings.simplefilter("always")
    ...     width("abc")
    3
    >>> print(said[0].message)
    width is len since depprobe 0.3; the old name will go
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        _warn(old, function.__name__, since)
        return function(*args, **kwargs)

    call.__name__ = old
    return call  # type: ignore[return-value]


def moved(module: str, names: Mapping[str, str], since: str) -> Callable[[str], Any]:
    """The ``__getattr__`` of a module whose names live elsewhere: old name -> ``module:name``.

    Examples
    --------
    >>> look = moved("depprobe.old", {"scaled": "depprobe.units:scaled"}, since="0.2")
    >>> with warnings.catch_warnings(record=True) as said:
    ...     warnings.simplefilter("always")
    ...     look("scaled").__name__
    'scaled'
    >>> print(said[0].message)
    depprobe.old.scaled is depprobe.units.scaled since depprobe 0.2; the old name will go
    """

    def look(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        home, _, new = names[name].partition(":")
        _warn(f"{module}.{name}", f"{home}.{new}", since)
        return getattr(importlib.import_module(home), new)

    return look
