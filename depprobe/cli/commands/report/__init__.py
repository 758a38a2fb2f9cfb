"""``depprobe report``: what a folder holds, read and drawn, as one page."""

from depprobe.cli.commands.report.command import report

__all__ = ["report"]
