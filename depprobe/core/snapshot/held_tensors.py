r"""Tensors as they were: their bits, their memory, gradients and flags, and the return to that."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from depprobe.core.device import waits

_INTEGER = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class HeldTensor:
    """A tensor, its storage and its bits."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.storage = tensor, tensor.detach()
        self.bits = self.storage.clone()
        self.version = version_of(tensor)
        self.requires_grad = tensor.requires_grad
        self.grad = tensor.grad if tensor.is_leaf else None
        self.grad_bits = None if self.grad is None else self.grad.detach().clone()

    def unchanged(self, known: bool = False) -> bool:
        """Whether all is as it was; ``known`` says so of the bits."""
        tensor = self.tensor
        return (known or same_bits(tensor, self.bits)) and (not tensor.is_leaf or tensor.grad is self.grad)

    def restore(self, briefly: bool = False) -> bool:
        """Put the tensor back; returns whether it was written into, ``briefly`` as torch counts writes."""
        tensor = self.tensor
        with torch.no_grad():
            if not same_memory(tensor, self.storage):
                tensor.data = self.storage
                briefly = False
            # the same bits once more are a write as well to a graph that was recorded before
            written = version_of(tensor) != self.version
            if (written or not briefly or self.version is None) and not same_bits(tensor, self.bits):
                tensor.data.copy_(self.bits)
                written = True
            self.version = version_of(tensor)
            if tensor.requires_grad is not self.requires_grad and tensor.is_leaf:
                tensor.requires_grad_(self.requires_grad)
            if tensor.is_leaf and tensor.grad is not self.grad:
                tensor.grad = self.grad
            grad, bits = self.grad, self.grad_bits
            if grad is not None and bits is not None and not same_bits(grad, bits):
                grad.data.copy_(bits)
        return written


def version_of(tensor: Tensor) -> int | None:
    """How many writes torch has counted; None where it does not."""
    return None if tensor.is_inference() else tensor._version


def copy_of(tensor: Tensor) -> Tensor:
    """The same in memory of its own, a leaf or no leaf as it is."""
    copy = tensor.detach().clone()
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(copy, requires_grad=tensor.requires_grad)
    return copy.requires_grad_(tensor.requires_grad and tensor.is_leaf)


def same_memory(tensor: Tensor, storage: Tensor) -> bool:
    """Whether two tensors are one place in memory."""
    if tensor.layout is not torch.strided or storage.layout is not torch.strided:
        return tensor.layout is storage.layout
    return (
        tensor.dtype is storage.dtype
        and tensor.shape == storage.shape
        and tensor.stride() == storage.stride()
        and tensor.data_ptr() == storage.data_ptr()
    )


def same_bits(tensor: Tensor, bits: Tensor) -> bool:
    """Whether a tensor holds these bits."""
    tensor = tensor.detach()
    if tensor.shape != bits.shape or tensor.dtype is not bits.dtype or tensor.layout is not bits.layout:
        return False
    if tensor.layout is not torch.strided:
        tensor, bits = tensor.to_dense(), bits.to_dense()
    return torch.equal(whole_bits(tensor), whole_bits(bits))


def whole_bits(tensor: Tensor) -> Tensor:
    """The bits of numbers as whole numbers."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return tensor.view(_INTEGER[tensor.element_size()]) if tensor.is_floating_point() else tensor


def same_at_once(held: Iterable[HeldTensor]) -> set[int]:
    """Those whose bits are known to be the same from one look, where the host waits for each."""
    held = [one for one in held if waits(one.bits.device) and one.bits.layout is torch.strided]
    if not held or not all(same_memory(one.tensor, one.storage) for one in held):
        return set()
    changed = [(whole_bits(one.tensor.detach()) != whole_bits(one.bits)).any() for one in held]
    same = not bool(torch.stack([flag.to(changed[0].device) for flag in changed]).any())
    return {id(one.tensor) for one in held} if same else set()
