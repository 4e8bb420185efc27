"""The parts of an engine that all its requests share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
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
from semshare_core.quality.healing import Healing


@dataclass(frozen=True)
class Runtime:
    """The model and everything around it.

    Attributes:
        context: the number of tokens that the model has room for, prompt and answer together.
        lock: guards the model. Every stage that runs the model needs it.
        prefill: fills caches.
        table: the model's token embeddings.
        facts: knows which tokens are parts of numbers and names.
        vectors: embeds prompts.
        weights: identifies the present weights.
        calibration: the model's calibration; None if it has none.
        canary: checks some answers afterwards.
        healing: computes approximate rows afresh afterwards.
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
    healing: Healing

    def identify(self) -> str:
        """The identity of the present weights. Examines the model again if it has changed. Needs the model's lock."""
        identity = self.weights.identity()
        with autocast.OFF.applied():
            self.prefill.follow(self.weights.structure, identity, foreign_code=self.weights.foreign_code)
        return identity

    def make_room(self) -> None:
        """Free the device's memory of all that a call can do without. Needs the model's lock."""
        self.pool.leave_device()
        if self.prefill.captured is not None:
            self.prefill.captured.drop()
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()

    @property
    def movable_tokens(self) -> int | None:
        """The longest sequence in which rows may move to other positions; None: no limit.

        Beyond the limit some models change their rotary frequencies with the length.
        """
        return self.prefill.spec.static_until

    @property
    def room(self) -> int:
        """The longest sequence whose rows can be stored."""
        limit = self.movable_tokens
        return self.context if limit is None else min(limit, self.context)
