"""Pure functions from IR to IR; one file each."""
