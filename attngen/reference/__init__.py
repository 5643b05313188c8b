"""The definition: an eager float64 executor, and the tolerance model."""
