"""Temporal Jacobians as linear operators, one per structure, and the table that picks one for a module."""

from depprobe.operators import sparse_attention as _sparse_attention  # noqa: F401 (registers itself)
from depprobe.operators.attention import AttentionJacobian
from depprobe.operators.composed import ComposedJacobian
from depprobe.operators.jacobian import LogNorms, Scaled, TemporalJacobian
from depprobe.operators.recurrent import RecurrentJacobian
from depprobe.operators.table import structured, temporal_jacobian
from depprobe.operators.toeplitz import ToeplitzJacobian

__all__ = [
    "AttentionJacobian",
    "ComposedJacobian",
    "LogNorms",
    "RecurrentJacobian",
    "Scaled",
    "TemporalJacobian",
    "ToeplitzJacobian",
    "structured",
    "temporal_jacobian",
]
