"""Real classes built on the meta device: shapes without weights (needs torch)."""
