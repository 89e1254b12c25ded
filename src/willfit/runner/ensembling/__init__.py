"""Models' scores of the same rows, made into one: checked, aligned by id, pooled."""
