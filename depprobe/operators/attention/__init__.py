"""Softmax attention, full and sparse: closed forms of its blocks and their norms."""
