"""The model: load it, say whether it can be served, measure how it computes. Knows no prompts and no pool."""
