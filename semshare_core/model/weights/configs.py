"""A model's configuration, which its code reads while it computes: the window of its attention for one."""

from __future__ import annotations

import copy
from typing import Any

from transformers import PreTrainedModel

from semshare_core.model.weights.layout import is_plain

_OF_NO_ACCOUNT = {
    "architectures",
    "dtype",
    "id2label",
    "label2id",
    "return_dict",
    "transformers_version",
    "use_cache",
    "vocab_size",  # follows the weights
}


class Configs:
    """Tells what has changed in a model's configuration since it was first asked."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._first: list[dict[str, Any]] = []

    def changes(self) -> tuple[tuple[int, str, str], ...]:
        """What has another value now; nothing, where all has changed back."""
        config = self._model.config
        now = [config.__dict__, config.get_text_config(decoder=True).__dict__]
        if not self._first:
            self._first = [_that_counts(values) for values in now]
        return tuple(
            (place, name, repr(values.get(name)))
            for place, (values, first) in enumerate(zip(now, self._first, strict=True))
            for name, value in first.items()
            if values.get(name) != value
        )


def _that_counts(values: dict[str, Any]) -> dict[str, Any]:
    """A copy of what a model's code may compute by."""
    return {
        name: copy.deepcopy(value)
        for name, value in values.items()
        if (value is None or is_plain(value))
        and name not in _OF_NO_ACCOUNT
        and not name.startswith(("_", "output_"))
        and not name.endswith("_token_id")
    }
