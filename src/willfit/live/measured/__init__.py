"""A scenario's real work: the model loaded, text generated, steps trained, each phase read."""
