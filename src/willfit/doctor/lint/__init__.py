"""What costs or leaks memory in scripts, notebooks and settings: one file a subject."""
