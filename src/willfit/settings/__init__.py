"""Settings read from what the user already has."""
