"""Step Jacobians of each kind of recurrence."""
