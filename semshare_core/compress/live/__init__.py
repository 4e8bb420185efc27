"""What is kept of the live cache for decoding: one compressor per file, with its settings as fields."""

from semshare_core.compress.live.base import LiveCompressor, LiveEvidence
from semshare_core.compress.live.retained_layer import RetainedLayer

__all__ = ["LiveCompressor", "LiveEvidence", "RetainedLayer"]
