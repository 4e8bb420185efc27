"""Rows as they are."""

from __future__ import annotations

from semshare_core.compress.codecs.base import Blobs, Codec, Pair
from semshare_core.slots import CODECS


@CODECS.register("none")
class NoCodec(Codec):
    """Keys and values themselves, bit for bit."""

    lossless = True

    def encode(self, rows: Pair, base: Pair | None = None) -> Blobs:
        return dict(zip(("k", "v"), rows, strict=True))

    def decode(self, blobs: Blobs, base: Pair | None = None) -> Pair:
        return blobs["k"], blobs["v"]
