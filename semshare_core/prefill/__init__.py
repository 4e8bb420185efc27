"""Selective prefill: rearranged keys and values, and a forward pass over the tokens that matter. Knows no pool."""
