"""How much of a prompt is recomputed: plans in, one recompute plan out. Knows no model and no pool."""
