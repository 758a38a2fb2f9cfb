"""Trajectories of recurrences and what their step Jacobians tell: exponents, spectra, pseudospectra."""
