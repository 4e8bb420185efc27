"""The command ``semshare``."""
