"""Results as one page of HTML: tables, figures, curves, provenance. No torch here, and no network.

A page is plain data (``Page``) made of datasets by whoever knows their kind; ``html_of`` writes it down.
"""

from depprobe.report.curves import Curve
from depprobe.report.page import Page, Picture, Table, html_of
from depprobe.report.provenance import Source

__all__ = ["Curve", "Page", "Picture", "Source", "Table", "html_of"]
