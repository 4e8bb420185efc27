"""What all requests to one engine share. Nothing of it belongs to a single request."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from semshare_core.budget.calibration import Calibration
from semshare_core.embed.prompt_vectors import PromptVectors
from semshare_core.match.facts import FactTokens
from semshare_core.match.token_table import TokenTable
from semshare_core.model import autocast
from semshare_core.model.lock import ModelLock
from semshare_core.model.weights import Weights
from semshare_core.pool import ReferencePool
from semshare_core.prefill.selective import SelectivePrefill
from semshare_core.quality.canary import CanaryWatch


@dataclass(frozen=True)
class Runtime:
    """
    Attributes:
        context: tokens that the model has room for, prompt and answer together.
        lock: guards the model; every stage that runs it needs the lock.
        prefill: fills caches.
        table: the model's token embeddings; ``facts``: which tokens are parts of numbers and names.
        vectors: embeds prompts.
        weights: names what computes rows now.
        calibration: what the levels go by; None: the model has none.
        canary: checks some answers afterwards.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    context: int
    lock: ModelLock
    pool: ReferencePool
    prefill: SelectivePrefill
    table: TokenTable
    facts: FactTokens
    vectors: PromptVectors
    weights: Weights
    calibration: Calibration | None
    canary: CanaryWatch

    def identify(self) -> str:
        """Names what computes rows now, and follows the model where it was changed. Needs the model's lock."""
        name = self.weights.identity()
        with autocast.OFF.again():
            self.prefill.follow(self.weights.structure)
        return name

    @property
    def movable_tokens(self) -> int | None:
        """Longest sequence in which rows may stand elsewhere than where they were computed; None: no limit.

        Beyond it the rotary frequencies of some models change with the length.
        """
        return self.prefill.spec.static_until

    @property
    def room(self) -> int:
        """Tokens that fit where rows are to be kept."""
        limit = self.movable_tokens
        return self.context if limit is None else min(limit, self.context)
