"""Trajectories of recurrences, their Lyapunov exponents, spectra and pseudospectra."""
