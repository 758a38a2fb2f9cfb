"""Faster ways through graphs of some kinds: lines of convolutions, attention on a convolution."""
