"""One file per question: a module and an input go in, a labelled Dataset comes out."""
