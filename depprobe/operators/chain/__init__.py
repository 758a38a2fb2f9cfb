"""Recurrences: the chain of their step Jacobians, swept backwards with compression."""
