"""Tree to checked IR."""
