"""What needs torch: the real modelling code, run without weights."""
