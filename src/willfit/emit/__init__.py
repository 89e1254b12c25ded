"""A scenario as code or configuration that runs as it stands."""
