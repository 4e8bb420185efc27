"""A cache layer from which rows are gone, and which counts them all the same."""

from __future__ import annotations

from torch import Tensor
from transformers.cache_utils import DynamicLayer


class RetainedLayer(DynamicLayer):
    """Some rows of a prompt, and everything appended since; ``dropped`` rows count but are gone.

    Every layer may be of another length, which `generate()` accepts as long as each tells the *logical* length as its
    own: positions go on counting tokens, attention sees the rows that are left.
    """

    def __init__(self, keys: Tensor, values: Tensor, dropped: int) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values
        self.dropped = dropped

    def get_seq_length(self) -> int:
        return self.keys.shape[-2] + self.dropped if isinstance(self.keys, Tensor) else 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() - self.dropped + query_length, 0
