"""What touches the real machine: its GPUs, and later loading and measuring."""
