"""The named layers, one file per family. ``depprobe.registry.layers`` reads every file of this folder."""
