"""Passes that bring models into one form: one opset, no functions, types and shapes inferred."""
