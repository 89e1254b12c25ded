"""Measurements on a real GPU: a grid of cases, its resumable runner, and what reads the results."""
