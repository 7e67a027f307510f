"""General helpers: the JSON codec, files, temporary folders, tables."""
