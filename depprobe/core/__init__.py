"""Numbers with exponents, functions of a sequence, the temporal Jacobian as a linear operator."""
