"""``depprobe sweep``: the grid of a TOML file, its cells as command lines, and how one is measured."""

from depprobe.cli.commands.sweep.command import sweep

__all__ = ["sweep"]
