"""Layers trained on tasks that need one input from a given lag, and what their gradient curves foretell."""
