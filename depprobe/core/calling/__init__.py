"""How a user's module is called: layout, state that is put back, settings of the process, faults named."""
