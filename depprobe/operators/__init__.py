"""Temporal Jacobians: a folder for each structure, and the table that picks one for a module."""

from depprobe.core.temporal_jacobian import LogNorms, Scaled, TemporalJacobian
from depprobe.operators.attention import call as _attention_call  # noqa: F401 (these register themselves)
from depprobe.operators.attention import sparse as _sparse_attention  # noqa: F401
from depprobe.operators.attention.operator import AttentionJacobian
from depprobe.operators.chain import call as _recurrent_call  # noqa: F401
from depprobe.operators.chain.operator import RecurrentJacobian
from depprobe.operators.composed import choice as _choice  # noqa: F401
from depprobe.operators.composed.operator import GraphJacobian
from depprobe.operators.composed.rules import attended_convolution as _attended_convolution  # noqa: F401
from depprobe.operators.convolution.operator import ToeplitzJacobian
from depprobe.operators.dispatch import operator_of, register_jacobian, temporal_jacobian

__all__ = [
    "AttentionJacobian",
    "GraphJacobian",
    "LogNorms",
    "RecurrentJacobian",
    "Scaled",
    "TemporalJacobian",
    "ToeplitzJacobian",
    "operator_of",
    "register_jacobian",
    "temporal_jacobian",
]
