"""Which layer to take: by costs measured on this machine, and by the gradient that arrives at a lag."""

from depprobe.advise.ranking import advise
from depprobe.advise.regions import regions

__all__ = ["advise", "regions"]
