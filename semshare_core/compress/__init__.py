"""Fewer bytes of keys and values."""
