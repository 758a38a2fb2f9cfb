"""A model in a folder, as transformers saves it: ``config.json``, weights, perhaps a tokenizer.

Only what is on the disk is read: no hub is asked, and code that a folder brings is never run.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from depprobe.errors import BadInput
from depprobe.models.checkpoint import ReadsText
from depprobe.models.json_object import object_in

#: files that hold a tokenizer, one of which a folder with text as input must have
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


@dataclass(frozen=True)
class PretrainedFolder(ReadsText):
    """A folder with a model; the model and the tokenizer are read when asked for.

    Parameters
    ----------
    path : the folder, with a ``config.json``.

    Raises
    ------
    BadInput : no such folder, or no model that transformers itself knows in it.
    """

    path: Path

    def __post_init__(self) -> None:
        if not self.path.is_dir():
            raise BadInput(
                f"no such folder {str(self.path)!r}; hf: takes a folder on this disk, no hub's name"
            )
        if not (self.path / "config.json").is_file():
            raise BadInput(
                f"{str(self.path)!r} holds no config.json; save a model with save_pretrained first"
            )

    @property
    def __name__(self) -> str:
        return self.path.resolve().name

    def __call__(self) -> nn.Module:
        """The model in eval mode, in the dtype of its weights."""
        transformers = _transformers()
        known = object_in(self.path / "config.json").get("architectures") or []
        kind = next((getattr(transformers, name) for name in known if hasattr(transformers, name)), None)
        with _local(self.path):
            if kind is None:
                kind = transformers.AutoModel
            model = kind.from_pretrained(
                str(self.path), local_files_only=True, trust_remote_code=False, dtype="auto"
            )
        return model.eval()

    def ids(self, text: str) -> list[int]:
        """The ids of a text's tokens; raises ``BadInput`` where the folder holds no tokenizer."""
        with _local(self.path):
            return [int(i) for i in self._tokenizer(text, verbose=False)["input_ids"]]

    def words(self, ids: Sequence[int]) -> list[str]:
        """What each token reads as; none where the folder holds no tokenizer."""
        if not self._has_tokenizer:
            return []
        with _local(self.path):
            return [self._tokenizer.decode([i]) for i in ids]

    @property
    def _has_tokenizer(self) -> bool:
        return any((self.path / name).is_file() for name in _TOKENIZERS)

    @cached_property
    def _tokenizer(self) -> Any:
        if not self._has_tokenizer:
            raise BadInput(
                f"{str(self.path)!r} holds no tokenizer, which a text needs; save one there with "
                "save_pretrained, or give ids as an .npy file"
            )
        return _transformers().AutoTokenizer.from_pretrained(
            str(self.path), local_files_only=True, trust_remote_code=False
        )


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise BadInput("hf: needs transformers: pip install 'depprobe[models]'") from None
    return transformers


@contextlib.contextmanager
def _local(path: Path) -> Iterator[None]:
    """No hub is asked, no bars are drawn, and what transformers raises is told in one line."""
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    bars = _transformers().utils.logging
    drawn = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    except BadInput:
        raise
    except Exception as error:
        said = " ".join(str(error).split())
        raise BadInput(
            f"transformers cannot read {str(path)!r}: {type(error).__name__}: {said[:300]}"
        ) from error
    finally:
        if drawn:
            bars.enable_progress_bar()
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before
