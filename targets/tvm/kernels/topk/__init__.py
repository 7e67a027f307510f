"""The k first elements of each row in order."""
