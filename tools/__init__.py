"""Scripts of the maintainers: they make the data files of the package."""
