"""From scheduled modules to the files of an artifact."""
