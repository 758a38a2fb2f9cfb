"""Global variables that a forward can change: names in the code it reaches, in files of the user's own.

    forward -> the functions, classes and modules that its code names -> what their code names, and so on

A method is reached once some code that was reached names it; ``__call__`` and its like at once, since nothing
has to name them. Installed packages are left alone.
"""

from __future__ import annotations

import dis
import functools
import sys
from collections.abc import Iterable
from types import CodeType, FunctionType, ModuleType
from typing import Any

#: in place of a variable that is not there
ABSENT = object()
#: packages whose objects hold nothing that a forward is meant to change; hooks of our own note what they see
FOREIGN = frozenset(sys.stdlib_module_names) | {"torch", "numpy", "pandas", "scipy", "xarray", "builtins"}
FOREIGN |= {"depprobe"}
#: folders of installed packages
_INSTALLED = ("site-packages", "dist-packages")
#: methods that code calls by the name of their class
_MAKERS = ("__init__", "__new__")


class OwnGlobals:
    """What ``restore`` puts back.

    Examples
    --------
    >>> found = OwnGlobals()
    >>> space = {"__name__": "own"}
    >>> exec("seen = []\\ndef forward(x):\\n    global calls\\n    seen.append(x)\\n    calls = 1", space)
    >>> found.reached(space["forward"]), space["forward"](3), "calls" in space
    ([[3]], None, True)
    >>> found.restore()
    >>> "calls" in space
    False
    """

    def __init__(self) -> None:
        #: (namespace, name, value) of each variable
        self.variables: list[tuple[dict[str, Any], str, Any]] = []
        self._known: set[tuple[int, str]] = set()
        self._codes: set[CodeType] = set()
        self._names = {"forward"}
        self._unnamed: dict[str, list[FunctionType]] = {}
        self._methods: set[int] = set()

    def methods(self, kind: type) -> list[Any]:
        """Values of variables that its methods can change, as far as they are reached."""
        found = []
        for name, method in vars(kind).items():
            function = getattr(method, "fget", None) or getattr(method, "__func__", method)
            if not isinstance(function, FunctionType):
                continue
            self._methods.add(id(function))
            name = kind.__name__ if name in _MAKERS else name
            if name in self._names or name.startswith("__"):
                found += self.reached(function)
            else:
                self._unnamed.setdefault(name, []).append(function)
        return found

    def is_method(self, function: FunctionType) -> bool:
        """Whether ``methods`` was given its class."""
        return id(function) in self._methods

    def reached(self, function: FunctionType) -> list[Any]:
        """Values of variables that a function, and the methods it names, can change."""
        found, waiting = [], [function]
        while waiting:
            one = waiting.pop()
            code, space = one.__code__, one.__globals__
            if code in self._codes or not _is_own(code.co_filename):
                continue
            self._codes.add(code)
            names, assigned = _names_in(code)
            found += self._variables(space, names)
            for name in assigned - space.keys():
                self._note(space, name)
            for name in names - self._names:
                waiting += self._unnamed.pop(name, [])
            self._names |= names
        return found

    def _variables(self, space: dict[str, Any], names: Iterable[str]) -> list[Any]:
        found = []
        for name in names & space.keys():
            if not self._note(space, name):
                continue
            value = space[name]
            if not isinstance(value, ModuleType):
                found += [value] if _may_change(value) else []
            elif is_users(value.__name__) and _is_own(value.__file__):
                found += self._variables(vars(value), names)
        return found

    def _note(self, space: dict[str, Any], name: str) -> bool:
        """Remember a variable; whether it was not yet."""
        key = id(space), name
        if key in self._known:
            return False
        self._known.add(key)
        self.variables.append((space, name, space.get(name, ABSENT)))
        return True

    def are_as_they_were(self) -> bool:
        """Whether every variable is what it was."""
        return all(space.get(name, ABSENT) is value for space, name, value in self.variables)

    def substitute(self, copies: dict[int, Any]) -> None:
        """Put copies in the place of values, by their id."""
        for space, name, value in self.variables:
            if id(value) in copies:
                space[name] = copies[id(value)]

    def restore(self) -> None:
        """Give every variable the value that it had."""
        for space, name, value in self.variables:
            if value is ABSENT:
                space.pop(name, None)
            elif space.get(name, ABSENT) is not value:
                space[name] = value


@functools.lru_cache(maxsize=4096)
def _names_in(code: CodeType) -> tuple[frozenset[str], frozenset[str]]:
    """Names in some code, those in strings among them (``getattr``), and the globals that it assigns."""
    names = {*code.co_names, *(one for one in code.co_consts if isinstance(one, str))}
    assigned = {one.argval for one in dis.get_instructions(code) if one.opname == "STORE_GLOBAL"}
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            more = _names_in(inner)
            names, assigned = names | more[0], assigned | more[1]
    return frozenset(names), frozenset(assigned)


def is_users(module: str | None) -> bool:
    """Whether a module of this name is none of those that are left alone."""
    return (module or "").partition(".")[0] not in FOREIGN


def _may_change(value: Any) -> bool:
    """Whether a value is data, or a function, class or object that no installed package defines."""
    kind = value if isinstance(value, type | FunctionType) else type(value)
    return not is_users(kind.__module__) or _is_own(
        getattr(sys.modules.get(kind.__module__), "__file__", None)
    )


def _is_own(file: str | None) -> bool:
    return not any(folder in str(file) for folder in _INSTALLED)
