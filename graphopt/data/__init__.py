"""Inputs of models: roles of inputs, generated inputs, the user's arrays, sample sets."""
