"""Temporal Jacobians: a folder for each structure, and the table that picks one for a module."""

from depprobe.core.temporal_jacobian import LogNorms, Scaled, TemporalJacobian
from depprobe.operators.attention import sparse as _sparse_attention  # noqa: F401 (registers itself)
from depprobe.operators.attention.operator import AttentionJacobian
from depprobe.operators.chain.operator import RecurrentJacobian
from depprobe.operators.composed.operator import ComposedJacobian
from depprobe.operators.convolution.operator import ToeplitzJacobian
from depprobe.operators.dispatch import operator_of, register_jacobian, temporal_jacobian

__all__ = [
    "AttentionJacobian",
    "ComposedJacobian",
    "LogNorms",
    "RecurrentJacobian",
    "Scaled",
    "TemporalJacobian",
    "ToeplitzJacobian",
    "operator_of",
    "register_jacobian",
    "temporal_jacobian",
]
