r"""Spectra of large matrices with independent entries of mean 0 and standard deviation sd.

    eigenvalues fill the disc of radius sd sqrt(N); largest singular value -> 2 sd sqrt(N)

Source: Ginibre 1965, Girko 1984, Tao and Vu 2010 (circular law); Bai and Yin 1993.
"""

from __future__ import annotations

import math


def circular_radius(sd: float, n: int) -> float:
    """Radius of the disc that the eigenvalues of an (n, n) matrix fill.

    Examples
    --------
    >>> round(circular_radius(1 / math.sqrt(3 * 512), 512), 5)
    0.57735
    """
    return sd * math.sqrt(n)


def edge_singular_value(sd: float, n: int) -> float:
    """Largest singular value of a large (n, n) matrix.

    Examples
    --------
    >>> round(edge_singular_value(1 / math.sqrt(3 * 512), 512), 4)
    1.1547
    """
    return 2 * sd * math.sqrt(n)
