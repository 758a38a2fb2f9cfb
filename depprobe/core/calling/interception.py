r"""Outputs of submodules, caught or replaced by a variable while the module runs.

Also the one extension of what torch does: in an nn.Sequential a recurrent layer's tuple (sequence, state)
would make the next layer fail, so its sequence is handed on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from depprobe.core.calling.known import natural_layout
from depprobe.core.calling.layout import laid_out, time_first
from depprobe.core.calling.outputs import chosen_output
from depprobe.errors import BadInput


class Interception:
    """Hooks on the submodules of one module for the length of one call.

    Parameters
    ----------
    stack : takes the hooks off again.
    module : the module that will be called.
    layout : its layout; a submodule of a type with a layout of its own keeps to that.
    """

    def __init__(self, stack: ExitStack, module: nn.Module, layout: str) -> None:
        self._stack, self._module, self._layout = stack, module, layout
        self._captured: list[Any] = []
        self._leaves: list[tuple[str, Tensor]] = []
        self._name = self._of = ""
        for recurrent in _handing_on(module):
            self._hook(recurrent, lambda result: result[0] if isinstance(result, tuple) else result)

    def _hook(self, module: nn.Module, change: Any) -> None:
        handle = module.register_forward_hook(lambda _module, _arguments, result: change(result))
        self._stack.callback(handle.remove)

    # -- of ------------------------------------------------------------------------------------------

    def capture(self, name: str, module: nn.Module) -> None:
        """Catch the output of a submodule; the module goes on with a copy, into which it may write."""
        self._of = name

        def catch(result: Any) -> Any:
            self._captured.append(result)
            return tree_map_only(Tensor, Tensor.clone, result)

        self._hook(module, catch)

    def captured(self) -> Any:
        """What was caught; raises ``BadInput`` where the submodule ran not once."""
        return _once(self._captured, self._of)

    # -- wrt -----------------------------------------------------------------------------------------

    def replace(self, name: str | None, module: nn.Module | None, ids: Tensor, value: Tensor | None) -> None:
        """Put a variable in the place of a submodule's output; None: of the embedding that reads the ids."""
        if module is not None and name is not None:
            self._name = name
            self._hook(module, lambda result: self._replaced(name, module, result, value))
            return
        self._name = "the embedding of the ids"
        get = getattr(self._module, "get_input_embeddings", None)
        given = get() if callable(get) else None
        if isinstance(given, nn.Module):
            # some models run a copy that holds the same weights
            embeddings = [one for one in self._module.modules() if isinstance(one, nn.Embedding)]
            copies = [one for one in embeddings if one.weight is getattr(given, "weight", None)]
            for one in dict.fromkeys([given, *copies]):
                self._hook(one, partial(self._replaced, "its output", one, value=value))
            return
        for path, child in self._module.named_modules():
            if isinstance(child, nn.Embedding):
                self._hook_reader(path or type(child).__name__, child, ids, value)

    def mark(self, name: str, module: nn.Module | None) -> None:
        """Keep hold of a submodule's output, which stays a function of what comes before."""
        assert module is not None
        self._hook(module, lambda result: self._replaced(name, module, result, None, apart=False))

    def marked(self, names: Sequence[str]) -> tuple[Tensor, ...]:
        """What was marked; raises ``BadInput`` where a submodule ran not once."""
        return tuple(_once([leaf for own, leaf in self._leaves if own == name], name) for name in names)

    def _hook_reader(self, path: str, child: nn.Embedding, ids: Tensor, value: Tensor | None) -> None:
        def hook(_module: nn.Module, arguments: tuple[Any, ...], result: Tensor) -> Tensor:
            read = arguments[0] if arguments else None
            same = isinstance(read, Tensor) and torch.equal(read.reshape(-1), ids.reshape(-1))
            return self._replaced(path, child, result, value) if same else result

        self._stack.callback(child.register_forward_hook(hook).remove)

    def _replaced(
        self, name: str, module: nn.Module, result: Any, value: Tensor | None, apart: bool = True
    ) -> Any:
        layout = natural_layout(module) or ("b n d" if self._layout == "b d n" else self._layout)
        found, has_time = time_first(chosen_output(result, "output", repr(name)), layout, f"{name!r}")
        if not has_time:
            raise BadInput(f"{name!r} gives one vector and no sequence, so wrt cannot be it")
        leaf = found if value is None else value
        leaf = leaf.detach().clone().requires_grad_() if apart or not leaf.requires_grad else leaf.clone()
        self._leaves.append((name, leaf))
        changed = laid_out(leaf.clone(), layout)
        if isinstance(result, Tensor):
            return changed
        if type(result) in (tuple, list) and isinstance(result[0], Tensor):
            return type(result)((changed, *result[1:]))
        raise BadInput(
            f"{name!r} gives {type(result).__name__}, which cannot be replaced; use a submodule inside"
        )

    def leaf(self) -> Tensor:
        """The variable that was put in; raises ``BadInput`` where the submodule ran not once."""
        names = {name for name, _ in self._leaves}
        if len(names) > 1:
            raise BadInput(f"several embeddings read the ids: {sorted(names)}; name one with wrt")
        return _once([leaf for _, leaf in self._leaves], self._name)


def _once(found: list[Any], name: str) -> Any:
    if len(found) == 1:
        return found[0]
    if not found:
        raise BadInput(f"{name!r} does not run as a module in this forward; name another submodule")
    raise BadInput(f"{name!r} runs {len(found)} times in one forward, and which is meant cannot be told")


def _handing_on(module: nn.Module) -> Iterator[nn.RNNBase]:
    """The recurrent layers in a plain nn.Sequential, whose tuples torch could not hand on."""
    if type(module) is nn.Sequential and "forward" not in vars(module):
        for child in module:
            if isinstance(child, nn.RNNBase):
                yield child
            else:
                yield from _handing_on(child)
