"""The backward kernel: a block of threads owns a block of keys and loops over the queries."""
