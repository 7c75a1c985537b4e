"""Functions of arrays, without parameters."""
