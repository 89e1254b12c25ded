"""The cheapest sets of changes that fit, and how long the job then takes."""
