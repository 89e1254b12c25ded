"""Rewriting code: the edits that findings carry, applied with libcst."""
