"""What a user's module reads from a source: ids where it embeds them, else floats of its own width.

text     ids: its bytes;       floats: its bytes through the fixed random embedding that layers get
noise    ids: drawn evenly;    floats: N(0, 1)
array    ids: a column of whole numbers;    floats: as it is
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from depprobe.core.calling.arguments import Sample, samples_of
from depprobe.errors import BadInput
from depprobe.runs.inputs import Source

#: layers that tell the width of what they read -> the attribute that holds it
_WIDTHS: dict[type[nn.Module], str] = {
    nn.Linear: "in_features",
    nn.RNNBase: "input_size",
    nn.RNNCellBase: "input_size",
    nn.Conv1d: "in_channels",
    nn.MultiheadAttention: "embed_dim",
    nn.BatchNorm1d: "num_features",
}


def samples_for(module: nn.Module, source: Source, n: int | None, samples: int, seed: int) -> list[Sample]:
    """The inputs that a module reads from a source, one a sample: ids (n,) or floats (n, d_in).

    Without n they are as long as a short source, see ``Source.own_length``.

    Raises
    ------
    BadInput : a source that is too short, a width or ids that the module cannot read, or a module that does
        not say what it reads.

    Examples
    --------
    >>> [one.shape for one in samples_for(nn.Linear(3, 2), Source("noise"), 5, 2, 0)]
    [torch.Size([5, 3]), torch.Size([5, 3])]
    >>> samples_for(nn.Embedding(256, 2), Source("text", text=b"abcd"), 3, 1, 0)
    [tensor([97, 98, 99])]
    """
    reader = _first_reader(module)
    n = source.own_length(samples) if n is None else n
    if isinstance(reader, nn.Embedding):
        return list(_ids(reader.num_embeddings, source, n, samples, seed))
    width = source.width or _width(module, reader)
    if width is None:
        raise BadInput(
            f"{type(module).__name__} does not say how wide its input is (an attribute input_size would); "
            "give --input FILE.npy or FILE.csv"
        )
    return samples_of(source.windows(n, width, samples, seed), module)


def tokens_of(x: Any, given: Sample, number: int = 0) -> Sequence[str]:
    """What the tokens of an input read as: bytes of a text, or those of a tokenizer's output; else none.

    ``number`` is that of the input in a tokenizer's output; padding comes last and reads as nothing.
    """
    if isinstance(x, Source) and x.text is not None:
        ids = isinstance(given, Tensor) and not given.is_floating_point()
        return _characters(bytes(given.tolist())) if isinstance(given, Tensor) and ids else ()
    known = getattr(x, "tokens", None)
    words = list(known(number)) if callable(known) else []
    real = real_positions(given)
    if real is None or len(words) <= real[-1]:
        return words
    return [words[at] for at in real] + [""] * (len(words) - len(real))


def _characters(text: bytes) -> list[str]:
    """What the bytes of a UTF-8 text read as: (n,). A character of several bytes stands at its first one.

    Bytes of a character that a window cuts are written as hexadecimal numbers.

    Examples
    --------
    >>> _characters("né".encode()), _characters("né".encode()[:2])
    (['n', 'é', ''], ['n', 'C3'])
    """
    found: list[str] = []
    while len(found) < len(text):
        rest = text[len(found) : len(found) + 4]
        for size in range(1, len(rest) + 1):
            with contextlib.suppress(UnicodeDecodeError):
                found += [rest[:size].decode(), *[""] * (size - 1)]
                break
        else:
            found.append(f"{rest[0]:02X}")
    return found


def real_positions(given: Sample) -> NDArray[np.int64] | None:
    """Positions that hold a token, by the ``attention_mask`` of a mapping; None where all do.

    Raises ``BadInput``: none does.

    Examples
    --------
    >>> real_positions({"attention_mask": torch.tensor([[0, 0, 1, 1, 1]])})
    array([2, 3, 4])
    """
    mask: Any = None if isinstance(given, torch.Tensor) else given.get("attention_mask")
    if mask is None or torch.as_tensor(mask).squeeze().ndim != 1:
        return None
    real = np.flatnonzero(torch.as_tensor(mask).squeeze().cpu().numpy())
    if not len(real):
        raise BadInput("attention_mask is 0 everywhere, so the input holds no token")
    return None if len(real) == mask.numel() else real


def _first_reader(module: nn.Module) -> nn.Module | None:
    """The layer that the input meets first, by the model's word or the order in which its parts stand."""
    own = getattr(module, "get_input_embeddings", None)
    if callable(own):
        found = own()
        if isinstance(found, nn.Module):
            return found
    kinds: tuple[type[nn.Module], ...] = (nn.Embedding, *_WIDTHS)
    return next((part for part in module.modules() if isinstance(part, kinds)), None)


def _width(module: nn.Module, reader: nn.Module | None) -> int | None:
    """The width of its input, by the module's own word or that of the layer that reads it."""
    if isinstance(own := getattr(module, "input_size", None), int) or reader is None:
        return own
    return int(getattr(reader, next(name for kind, name in _WIDTHS.items() if isinstance(reader, kind))))


def _ids(known: int, source: Source, n: int, samples: int, seed: int) -> Tensor:
    """Ids (samples, n) below ``known``."""
    if source.length is None:
        return torch.from_numpy(np.random.default_rng([seed, 1]).integers(0, known, (samples, n)))
    if source.text is not None:
        source = Source(source.name, data=np.frombuffer(source.text, dtype=np.uint8)[:, None].astype(float))
    if source.width != 1:
        raise BadInput(f"{source.name} has {source.width} columns; token ids are one column of whole numbers")
    values = source.windows(n, 1, samples, seed)[..., 0]
    if (values != np.round(values)).any() or values.min() < 0 or values.max() >= known:
        worst = values[(values != np.round(values)) | (values < 0) | (values >= known)][0]
        raise BadInput(
            f"{source.name} holds {worst:g}, and the model reads whole numbers from 0 to {known - 1}"
        )
    return torch.from_numpy(values.astype(np.int64))
