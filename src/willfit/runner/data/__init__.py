"""The user's table: one file a format, all of one shape (``SUFFIXES``, ``names``, ``read``)."""
