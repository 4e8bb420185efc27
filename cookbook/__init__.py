"""Things to run and to read: how SemShare is used. ``python -m cookbook.demo`` is the place to start."""
