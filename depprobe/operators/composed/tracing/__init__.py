"""Forward passes as graphs: known calls, loops over cells and registered modules are cut out."""
