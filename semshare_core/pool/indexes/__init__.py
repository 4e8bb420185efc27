"""How entries are found: by prefix, by runs of tokens, by likeness."""
