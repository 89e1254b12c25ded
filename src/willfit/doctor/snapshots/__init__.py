"""PyTorch memory snapshots: read safely, explained, replayed with other settings."""
