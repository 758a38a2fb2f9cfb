"""What everything else leans on: numbers with exponents, functions of a sequence, the operator they give."""
