"""The first k elements of each row in order."""
