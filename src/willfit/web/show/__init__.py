"""Answers as pieces of the page: HTML of results, which computes no number."""
