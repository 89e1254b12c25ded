"""Memory of this process: what a block takes, what a model leaves behind, and who holds it."""
