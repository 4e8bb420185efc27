"""From a prompt's tokens to a reuse plan: search the pool, choose the references that serve, match their tokens."""
