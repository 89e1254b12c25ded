"""The doctor: what a failure was, by its numbers, and what to change."""
