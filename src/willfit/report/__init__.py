"""Results as text, JSON and pictures; computes no number."""
