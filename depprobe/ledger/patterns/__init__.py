"""Sparse attention: what its patterns cost, and what they are recommended for."""
