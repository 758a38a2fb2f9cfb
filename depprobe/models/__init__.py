"""What users bring: their own code by import path, weights from checkpoints."""
