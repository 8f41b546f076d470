"""Leakage of training recordings by a model's parameters: membership inference attacks and their results."""
