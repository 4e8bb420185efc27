"""Quality: how much recomputation an answer needs."""
