"""Suites: grids of real runs, in the order of their worth, one line a case, resumable."""
