"""The identity of a model: what calibrations and stored rows belong to. Knows no model, so that it costs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b


@dataclass(frozen=True)
class Fingerprint:
    """The identity of a model and its tokenizer; equal in every process that loads the same.

    Attributes:
        description: the parts: ``architecture``, ``config``, ``weights``, ``tokenizer``, ``dtype``, ``embedding``.
            Texts, of which ``config``, ``weights`` and ``tokenizer`` are digests.
    """

    description: Mapping[str, str]

    @property
    def digest(self) -> str:
        """32 hexadecimal digits."""
        return blake2b(json.dumps(dict(self.description), sort_keys=True).encode(), digest_size=16).hexdigest()
