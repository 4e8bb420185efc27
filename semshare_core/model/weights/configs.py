"""A model's configuration, which its code reads while it computes: the window of its attention, for example."""

from __future__ import annotations

import copy
from typing import Any

from transformers import PreTrainedModel

from semshare_core.model.weights.layout import is_plain

_IRRELEVANT = {
    "architectures",
    "dtype",
    "id2label",
    "label2id",
    "return_dict",
    "transformers_version",
    "use_cache",
    "vocab_size",  # follows the weights
}


class ConfigWatch:
    """Tells which values of a model's configuration have changed since the first question."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._first: list[dict[str, Any]] = []

    def changes(self) -> tuple[tuple[int, str, str], ...]:
        """Each value that is another one now; empty once all have changed back."""
        config = self._model.config
        now = [config.__dict__, config.get_text_config(decoder=True).__dict__]
        if not self._first:
            self._first = [
                {name: copy.deepcopy(value) for name, value in values.items() if _counts(name, value)} for values in now
            ]
        return tuple(
            (place, name, repr(values.get(name)))
            for place, (values, first) in enumerate(zip(now, self._first, strict=True))
            for name, value in first.items()
            if values.get(name) != value
        )


def _counts(name: str, value: Any) -> bool:
    """Whether a model's code may compute by a value of the configuration."""
    bookkeeping = name in _IRRELEVANT or name.startswith(("_", "output_")) or name.endswith("_token_id")
    return not bookkeeping and (value is None or is_plain(value))
