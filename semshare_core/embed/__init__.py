"""Prompts as vectors, for the search over similar prompts."""
