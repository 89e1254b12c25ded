"""Why memory ran out: one file a kind of evidence."""
