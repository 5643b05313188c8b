"""Ground floor: sources, diagnostics, dtypes, targets, data files."""
