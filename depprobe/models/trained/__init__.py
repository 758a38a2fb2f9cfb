"""Trained weights that public packages carry: a catalogue, the files of each model, and their networks."""
