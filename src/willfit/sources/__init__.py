"""Where a model's shape comes from: one file a source, one seam."""
