"""Leakage of training recordings through a model's parameters: membership inference attacks and their results."""
