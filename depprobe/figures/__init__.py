"""Datasets -> figures one would print. No torch here, and no pyplot: nothing opens a window or keeps state.

Every figure takes datasets and the words ``ax``, ``title``, ``legend``, ``labels`` and ``floor``. It draws a
figure of its own in the style of the house, or into ``ax`` in the settings of matplotlib that are in force,
and returns what it drew, with a caption for a paper; ``save`` writes it, ``panels`` puts several into one. To
add a figure, add a file with one function of this kind.
"""

from depprobe.figures.cost import CostDrawing, cost
from depprobe.figures.decay import DecayDrawing, decay
from depprobe.figures.decision import DecisionMap, decision
from depprobe.figures.drawing.saving import FORMATS, format_of, save
from depprobe.figures.drawing.venues import VENUES, venue
from depprobe.figures.gates import GatesDrawing, gates
from depprobe.figures.heatmap import HeatmapDrawing, heatmap
from depprobe.figures.lyapunov import LyapunovDrawing, lyapunov
from depprobe.figures.panels import Panels, panels
from depprobe.figures.spectrum import SpectrumDrawing, spectrum
from depprobe.figures.speedup import SpeedupDrawing, speedup
from depprobe.renaming import moved

__all__ = [
    "FORMATS",
    "VENUES",
    "CostDrawing",
    "DecayDrawing",
    "DecisionMap",
    "GatesDrawing",
    "HeatmapDrawing",
    "LyapunovDrawing",
    "Panels",
    "SpectrumDrawing",
    "SpeedupDrawing",
    "cost",
    "decay",
    "decision",
    "format_of",
    "gates",
    "heatmap",
    "lyapunov",
    "panels",
    "save",
    "spectrum",
    "speedup",
    "venue",
]

__getattr__ = moved(
    __name__, {"efficiency": "depprobe.ledger.costs.efficiency_figure:efficiency"}, since="0.2"
)
