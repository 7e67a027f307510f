"""Helpers without a subject of their own: files, temporary folders, tables."""
