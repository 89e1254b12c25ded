"""The closed formulas: how bytes are found without running anything."""
