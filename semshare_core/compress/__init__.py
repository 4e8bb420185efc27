"""Fewer bytes of keys and values: while decoding (``live/``) and while stored (``codecs/``)."""
