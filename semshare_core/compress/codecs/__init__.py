"""How stored rows lie: one codec per file."""

from semshare_core.compress.codecs.base import Blobs, Codec, Pair
from semshare_core.compress.codecs.none import NoCodec

__all__ = ["Blobs", "Codec", "NoCodec", "Pair"]
