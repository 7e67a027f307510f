"""What goes into a model: the roles of its inputs, generated inputs, the user's arrays."""
