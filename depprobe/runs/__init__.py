"""What is measured: cases, the loop over them, inputs, weights, finished cases on disk, labelling."""
