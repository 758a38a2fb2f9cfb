"""Datasets -> figures one would print. No torch here, and no pyplot: nothing opens a window or keeps state.

Every figure takes datasets, draws into ``ax`` or a figure of its own, and returns what it drew; ``save``
writes it. To add a figure, add a file with one function of this kind.
"""

from depprobe.figures.cost import CostDrawing, cost
from depprobe.figures.decay import DecayDrawing, decay
from depprobe.figures.decision import DecisionMap, decision
from depprobe.figures.drawing.saving import FORMATS, format_of, save
from depprobe.figures.drawing.venues import VENUES, venue
from depprobe.figures.gates import GatesDrawing, gates
from depprobe.figures.heatmap import HeatmapDrawing, heatmap
from depprobe.figures.lyapunov import LyapunovDrawing, lyapunov
from depprobe.figures.spectrum import SpectrumDrawing, spectrum
from depprobe.figures.speedup import SpeedupDrawing, speedup

__all__ = [
    "FORMATS",
    "VENUES",
    "CostDrawing",
    "DecayDrawing",
    "DecisionMap",
    "GatesDrawing",
    "HeatmapDrawing",
    "LyapunovDrawing",
    "SpectrumDrawing",
    "SpeedupDrawing",
    "cost",
    "decay",
    "decision",
    "format_of",
    "gates",
    "heatmap",
    "lyapunov",
    "save",
    "spectrum",
    "speedup",
    "venue",
]
