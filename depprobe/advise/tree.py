"""What the article would take: its decision tree, and its rules of thumb where they say otherwise."""

from __future__ import annotations

#: longest sequence for plain attention, and for anything but a recurrence
SHORT, LONG = 500, 5000
#: from here documents are told to mix sparse attention with convolution
DOCUMENTS = 10_000
#: lag up to which a dependency is local; the article names no number
LOCAL = 64

#: what the article calls a kind of layer -> the named layers
FAMILIES: dict[str, tuple[str, ...]] = {
    "attention": ("attention",),
    "convolution": ("conv", "dilated-conv"),
    "sparse attention": ("sliding-window", "dilated-attention", "block-attention"),
    "recurrence": ("rnn", "gru", "lstm"),
    "sparse attention with convolution": ("conv-attention",),
}


def family_of(spec: str) -> str:
    """The article's kind of a named layer; the name itself where it has none.

    Examples
    --------
    >>> family_of("gru:gain=1")
    'recurrence'
    """
    name = spec.partition(":")[0]
    return next((family for family, names in FAMILIES.items() if name in names), name)


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
        return "convolution"
    return "sparse attention with convolution" if n > DOCUMENTS else None
