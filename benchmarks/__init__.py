"""Accuracy and speed, measured: the ledger, and ratios side by side in one run."""
