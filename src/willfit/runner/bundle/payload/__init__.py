"""Files that go into a bundle as they are: they use the standard library alone."""
