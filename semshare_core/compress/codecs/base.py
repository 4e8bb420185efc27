"""How the rows of a pooled prompt lie while nobody reads them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, TypeAlias

if TYPE_CHECKING:  # settings check a codec's name, and do without torch
    from torch import Tensor

Pair: TypeAlias = "tuple[Tensor, Tensor]"
"""Keys (rotated to their positions) and values of one layer, [1, kv_heads, n, head_dim] each."""

Blobs: TypeAlias = "dict[str, Tensor]"
"""Tensors by name, as a file of the safetensors format can hold them."""


class Codec(ABC):
    """Turns rows into blobs and back, one layer of one segment at a time.

    Attributes:
        version: of the blobs. A change after which older ones are read wrongly needs a higher number: records tell it.
        lossless: what is decoded has the bits of what was encoded.
    """

    version: ClassVar[int] = 1
    lossless: ClassVar[bool] = False

    @abstractmethod
    def encode(self, rows: Pair, base: Pair | None = None) -> Blobs:
        """The blobs of ``rows``, which stay as they are.

        Args:
            rows: on any device; the pool's folder hands over contiguous tensors on the CPU.
            base: rows that these resemble token by token, for codecs that keep differences; ``rows`` has as many.
        """

    @abstractmethod
    def decode(self, blobs: Blobs, base: Pair | None = None) -> Pair:
        """The rows again, with their shapes and dtype; ``base`` as when they were encoded."""

    def bytes(self, blobs: Blobs) -> int:
        """What the blobs take, scales and the like included."""
        return sum(blob.nbytes for blob in blobs.values())
