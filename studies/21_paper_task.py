"""From a checkpoint to the figure and the table of a paper: whose inputs of long ago still count?

A trained LSTM of two layers, read from its checkpoint, beside a causal Transformer encoder of torch and a
temporal convolutional network (TCN) at five draws of their weights, on a recorded signal (CSV) and on English
text. What is measured is the norm of J[t,k] = dh_t/dx_k at the last of n = 400 positions, in five windows of
each file. Results are one figure of two panels and one LaTeX table, as they stand: ``paper`` below is all that
a user writes. The checkpoint, the signal and the text are made here, so that the study needs no download.

Answer: PLACEHOLDER
"""
