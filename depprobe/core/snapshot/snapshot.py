r"""A module as it was, bit for bit, and its return to that.

Everything reachable from the module through its attributes, containers and objects is remembered: tensors
with their bits, gradients and flags; the contents of dictionaries, lists, sets and of user-defined objects
and classes, by identity; what functions keep in defaults, closures and global variables of the user's own
files; arrays and random generators. ``restore`` puts back what differs, in place.

Tensors that a forward writes into are a special case: a recorded graph would see the values put back. They
are named by ``restore`` and, from the next call on, replaced by copies while the module runs. Iterators that
can be copied are so from the first call on.
"""

from __future__ import annotations

import random
from argparse import Namespace
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from functools import partial
from operator import is_
from types import BuiltinFunctionType, CellType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as _torch_module

from depprobe.core.calling.environment import ProcessState, same_state, set_state, state_of
from depprobe.core.calling.known import global_hooks, is_torchs_own
from depprobe.core.snapshot.held_tensors import HeldTensor, copy_of, same_at_once, version_of
from depprobe.core.snapshot.iterators import ITERATORS, copy_of_iterator, place_of, same_place
from depprobe.core.snapshot.own_globals import OwnGlobals, is_users
from depprobe.errors import BadInput

_ATOMS = (int, float, bool, str, bytes, complex, type(None), torch.dtype, torch.device, torch.Size)
_CODE = (BuiltinFunctionType, ModuleType, property, staticmethod, classmethod)
#: what hands on the objects that it holds under these names
_HOLDERS: dict[type, tuple[str, ...]] = {
    MethodType: ("__self__", "__func__"),
    partial: ("func", "args", "keywords"),
    FunctionType: ("__defaults__", "__kwdefaults__", "__closure__", "__dict__"),
}


class Snapshot:
    """What ``restore`` brings back.

    Parameters
    ----------
    module : the module; one made of torch's own layers, which keep nothing between calls, is not looked at.

    Examples
    --------
    >>> cell = nn.Linear(2, 2)
    >>> cell.register_forward_hook(lambda m, args, y: setattr(m, "calls", 1)).id >= 0
    True
    >>> snapshot = Snapshot(cell)
    >>> y = cell(torch.ones(1, 2))
    >>> snapshot.restore(), hasattr(cell, "calls")
    ([], False)
    """

    def __init__(self, module: nn.Module, beside: Sequence[Any] = ()) -> None:
        self._module, self._beside = module, beside
        self._tensors: dict[int, HeldTensor] = {}
        self._written: dict[int, Tensor] = {}
        #: whether any ``restore`` found that a generator among the attributes had been drawn from, and the
        #: name of an iterator that had gone on
        self._drawn, self._consumed = False, ""
        #: how often what it watches over is entered, and what the process was like at first
        self.depth = 0
        self._process: ProcessState | None = None
        self._take()

    def _take(self) -> None:
        self._seen: dict[int, Any] = {}
        self._dicts: list[tuple[dict[Any, Any], list[Any], list[Any]]] = []
        #: most of a module's dictionaries hold nothing, and whether all of them still do is told at once
        self._empty: list[dict[Any, Any]] = []
        self._lists: list[tuple[Any, list[Any]]] = []
        self._classes: list[tuple[type, dict[str, Any]]] = []
        self._arrays: list[tuple[np.ndarray, np.ndarray]] = []
        self._generators: list[tuple[Any, Any]] = []
        self._cells: list[tuple[CellType, Any]] = []
        self._iterators: list[tuple[Any, list[Any]]] = []
        self._globals = OwnGlobals()
        known, self._tensors = self._tensors, {}
        if is_torchs_own(self._module):
            return
        waiting: list[Any] = [self._module, *self._beside, *global_hooks()]
        waiting += [*self._module.parameters(), *self._module.buffers()]
        while waiting:
            self._visit(waiting.pop(), waiting, known)

    def _visit(self, value: Any, waiting: list[Any], known: dict[int, HeldTensor]) -> None:
        kind = type(value)
        if kind in _ATOMS or id(value) in self._seen or isinstance(value, _CODE):
            return
        self._seen[id(value)] = value
        if isinstance(value, Tensor):
            held = known.get(id(value))
            same = held is not None and held.tensor is value and held.unchanged()
            self._tensors[id(value)] = held if held is not None and same else HeldTensor(value)
        elif kind in (dict, OrderedDict) and not value:
            self._empty.append(value)
        elif isinstance(value, dict):
            self._dicts.append((value, list(value), list(value.values())))
            _push(waiting, value.values())
        elif isinstance(value, (list, deque, set)):
            self._lists.append((value, list(value)))
            _push(waiting, value)
        elif isinstance(value, (tuple, frozenset)):
            _push(waiting, value)
        elif isinstance(value, np.ndarray):
            self._arrays.append((value, value.copy()))
        elif isinstance(value, (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)):
            self._generators.append((value, state_of(value)))
        elif isinstance(value, ITERATORS):
            self._iterators.append((value, place_of(value)))
        elif kind in _HOLDERS:
            if kind is not FunctionType or _is_users(value):
                _push(waiting, [getattr(value, name) for name in _HOLDERS[kind]])
            if kind is FunctionType and _is_users(value) and not self._globals.is_method(value):
                _push(waiting, self._globals.reached(value))
        elif isinstance(value, CellType):
            held = _contents(value)
            self._cells.append((value, held))
            _push(waiting, [held])
        elif isinstance(value, type):
            if _is_users(value):
                values = {name: item for name, item in vars(value).items() if not name.startswith("__")}
                self._classes.append((value, values))
                _push(waiting, [*values.values(), *self._globals.methods(value)])
        elif isinstance(value, (nn.Module, SimpleNamespace, Namespace)) or _is_users(kind):
            waiting += kind.__mro__
            for slot in (name for parent in kind.__mro__ for name in _slots(parent)):
                _push(waiting, [getattr(value, slot, None)])
            if hasattr(value, "__dict__"):
                waiting.append(vars(value))

    def enter(self) -> ProcessState:
        """Watch over the module from now on, if it is not done yet, and over the process."""
        if self._process is None or not self.depth:
            self.refresh()
            self._process = ProcessState()
        self.depth += 1
        return self._process

    def refresh(self) -> None:
        """Remember the module as it is now, copying only what changed since."""
        if not self._is_as_it_was():
            self._take()
        for held in self._tensors.values():
            held.version = version_of(held.tensor)

    def _is_as_it_was(self) -> bool:
        same = same_at_once(self._tensors.values())
        return (
            not any(self._empty)
            and all(
                _identical(now, keys) and _identical(now.values(), values)
                for now, keys, values in self._dicts
            )
            and all(_identical(now, then) for now, then in self._lists)
            and all(_contents(cell) is held for cell, held in self._cells)
            and self._globals.are_as_they_were()
            and all(same_place(place_of(one), place) for one, place in self._iterators)
            and all(held.unchanged(key in same) for key, held in self._tensors.items())
            and all(np.array_equal(now, then, equal_nan=True) for now, then in self._arrays if now.size)
        )

    def substitute(self) -> None:
        """Put copies in the place of the tensors that a call is known to write into."""
        if self.depth > 1:
            self.restore()
        copies: dict[int, Any] = {key: copy_of(tensor) for key, tensor in self._written.items()}
        copies |= {id(one): copy_of_iterator(one) for one, _ in self._iterators}
        if not copies:
            return
        self._globals.substitute(copies)
        for mapping, keys, values in self._dicts:
            mapping.update((k, copies[id(v)]) for k, v in zip(keys, values, strict=True) if id(v) in copies)
        for items, values in self._lists:
            if isinstance(items, (list, deque)):
                for place, value in enumerate(values):
                    items[place] = copies.get(id(value), value)
        for cell, held in self._cells:
            if id(held) in copies:
                cell.cell_contents = copies[id(held)]

    def restore(self) -> list[Tensor]:
        """Put everything back; returns the tensors that had been written into.

        Within another, bits are not compared where torch counted no write: that is done in the end.
        """
        briefly = self.depth > 1
        same = set() if briefly else same_at_once(self._tensors.values())
        for mapping, keys, values in self._dicts:
            if not (_identical(mapping, keys) and _identical(mapping.values(), values)):
                _kind(mapping).clear(mapping)
                _kind(mapping).update(mapping, zip(keys, values, strict=True))
        for mapping in filter(None, self._empty):
            _kind(mapping).clear(mapping)
        for items, then in self._lists:
            if not _identical(items, then):
                items.clear()
                items.update(then) if isinstance(items, set) else items.extend(then)
        for kind, attributes in self._classes:
            _restore_class(kind, attributes)
        for cell, contents in self._cells:
            if _contents(cell) is not contents:
                cell.cell_contents = contents
        self._globals.restore()
        for array, copy in self._arrays:
            if array.shape != copy.shape or array.tobytes() != copy.tobytes():
                array[...] = copy
        for generator, state in self._generators:
            if not same_state(state_of(generator), state):
                self._drawn = True
                set_state(generator, state)
        gone_on = [one for one, place in self._iterators if not same_place(place_of(one), place)]
        self._consumed = self._name_of(gone_on[0]) if gone_on else self._consumed
        return [held.tensor for k, held in self._tensors.items() if held.restore(briefly or k in same)]

    def _name_of(self, value: Any) -> str:
        """The name under which something is held."""
        held = [(names, values) for _, names, values in self._dicts]
        held += [([name], [value]) for _, name, value in self._globals.variables]
        pairs = (pair for names, values in held for pair in zip(names, values, strict=True))
        return next((repr(name) for name, one in pairs if one is value), "held without a name")

    def require_whole(self, who: str, drawn: bool) -> None:
        """Refuse a module whose calls draw random numbers, or change what cannot be put back.

        Raises ``BadInput``. ``drawn``: from the generators of the process.
        """
        if drawn or self._drawn:
            raise BadInput(
                f"{who} draws random numbers, so rows would come from different functions; "
                "call module.eval(), or switch off what draws them"
            )
        if self._consumed:
            raise BadInput(
                f"{who} takes from a generator or iterator, {self._consumed}, that cannot be wound back, so "
                "that each call would be another function; let its forward take from a list or a counter"
            )

    def will_be_written(self, tensors: Sequence[Tensor]) -> None:
        """Remember that calls write into these."""
        self._written |= {id(tensor): tensor for tensor in tensors}


def _push(waiting: list[Any], values: Iterable[Any]) -> None:
    waiting += [value for value in values if type(value) not in _ATOMS]


def _kind(mapping: dict[Any, Any]) -> type[dict[Any, Any]]:
    return OrderedDict if isinstance(mapping, OrderedDict) else dict


def _identical(now: Iterable[Any], then: list[Any]) -> bool:
    return len(now) == len(then) and all(map(is_, now, then))  # type: ignore[arg-type]


def _is_users(kind: Any) -> bool:
    return is_users(kind.__module__)


def _contents(cell: CellType) -> Any:
    """What a variable of a closure holds; the cell itself where it holds nothing yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return cell


def _slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ()) if _is_users(kind) else ()
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _restore_class(kind: type, attributes: dict[str, Any]) -> None:
    now = {name: item for name, item in vars(kind).items() if not name.startswith("__")}
    for name in now.keys() - attributes.keys():
        delattr(kind, name)
    for name, value in attributes.items():
        if now.get(name, _torch_module) is not value:
            setattr(kind, name, value)
