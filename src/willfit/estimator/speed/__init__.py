"""Scenarios into work, and work into seconds."""
