"""Pages of the reference, made of what the program says of itself."""
