"""Convolutions: Toeplitz blocks, corrected at the edges."""
