"""The full prefill's answer to a prompt, with which reused prefills are compared."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from semshare_core.budget.levels import MEASURED_TOKENS
from semshare_core.engine import Prefill, SemShareEngine
from semshare_core.errors import NumericalError
from semshare_core.model.computing import computing
from semshare_core.prompt.encode import Prompt
from semshare_core.quality.divergence import Continuation, Divergence

NAMESPACE = "calibration"
"""Where calibration prompts are stored while they are measured."""


@dataclass(frozen=True)
class FullAnswer:
    """The first tokens of the full prefill's greedy answer.

    Attributes:
        tokens: int64 [k].
        expected: log-probabilities float32 [k, vocabulary].
        seconds: TTFT of the full prefill.
    """

    tokens: Tensor
    expected: Tensor
    seconds: float

    @classmethod
    def to(cls, engine: SemShareEngine, prompt: Prompt) -> FullAnswer:
        """Prefill ``prompt`` in full and answer it.

        Raises:
            PromptError: the prompt is empty, or too long for the model.
        """
        full = engine.prefill(prompt, reuse="off", store=False, namespace=NAMESPACE)
        room = engine.context - full.report.prompt_tokens
        with computing(engine.model):
            tokens, expected = Continuation(engine.model, full.cache).greedy(full.logits, min(MEASURED_TOKENS, room))
        return cls(tokens, expected, full.report.ttft_ms / 1e3)

    def kl(self, engine: SemShareEngine, reused: Prefill, name: str) -> float:
        """KL(full prefill || reuse) in nats, the mean over the tokens. Appends them to the prefill's cache.

        Raises:
            NumericalError: the model's logits are not numbers. ``name`` says where.
        """
        with computing(engine.model):
            actual = Continuation(engine.model, reused.cache).follow(reused.logits, self.tokens)
        kl = float(Divergence.between(self.expected, actual).kl.mean())
        if not math.isfinite(kl):
            raise NumericalError(f"{name}: the KL is {kl}. Use another dtype.")
        return kl
