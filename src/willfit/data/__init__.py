"""Data files of the package, each row with its source."""
