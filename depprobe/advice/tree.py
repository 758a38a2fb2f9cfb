"""What the article would take: its decision tree, and its rules of thumb.

tree     n < 500: attention; 500 to 5000: convolution if local, sparse attention if global;
         n > 5000: recurrence
rules    n < 500: attention; streams: recurrence; long and local: dilated convolution;
         documents over 10,000: sparse attention mixed with convolution
"""

from __future__ import annotations

from depprobe.registry import Spec

#: longest sequence for plain attention, and for anything but a recurrence
SHORT, LONG = 500, 5000
#: from here documents are told to mix sparse attention with convolution
DOCUMENTS = 10_000
#: lag up to which a dependency is local; the article names no number
LOCAL = 16

#: the article's sparse attention with convolution
MIXED = "conv-attention:attention=sliding-window"

#: what the article calls a kind of layer -> the layers that are of it
FAMILIES: dict[str, tuple[str, ...]] = {
    "attention": ("attention",),
    "convolution": ("conv", "dilated-conv"),
    "dilated convolution": ("dilated-conv",),
    "sparse attention": ("sliding-window", "dilated-attention", "block-attention"),
    "recurrence": ("rnn", "gru", "lstm"),
    "sparse attention with convolution": (MIXED,),
}


def is_of(spec: str, family: str) -> bool:
    """Whether a layer is what the article calls by this name, whatever its further options.

    Examples
    --------
    >>> is_of("gru:gain=1", "recurrence"), is_of("conv-attention", "sparse attention with convolution")
    (True, False)
    """
    given = Spec.parse(spec)
    members = [Spec.parse(member) for member in FAMILIES[family]]
    return any(
        given.name == member.name and member.settings.items() <= given.settings.items() for member in members
    )


def tree(n: int, lag: int) -> str:
    """The leaf of the decision tree.

    Examples
    --------
    >>> tree(300, 10), tree(1000, 10), tree(1000, 900), tree(10_000, 10)
    ('attention', 'convolution', 'sparse attention', 'recurrence')
    """
    if n < SHORT:
        return "attention"
    if n > LONG:
        return "recurrence"
    return "convolution" if lag <= LOCAL else "sparse attention"


def rule_of_thumb(n: int, lag: int, stream: bool) -> str | None:
    """What the rules of thumb say, None where they are silent.

    Examples
    --------
    >>> rule_of_thumb(1000, 10, stream=True), rule_of_thumb(20_000, 19_999, stream=False)
    ('recurrence', 'sparse attention with convolution')
    """
    if stream:
        return "recurrence"
    if n < SHORT:
        return "attention"
    if lag <= LOCAL:
        return "dilated convolution"
    return "sparse attention with convolution" if n > DOCUMENTS else None
