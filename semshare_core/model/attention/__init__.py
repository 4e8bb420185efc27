"""Attention functions that replace the model's own for the time of a call."""
