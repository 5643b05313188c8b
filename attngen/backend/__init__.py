"""IR, schedule and target to source text."""
