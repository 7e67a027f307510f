"""Passes that bring models to one form: one opset, no functions, types and shapes inferred."""
