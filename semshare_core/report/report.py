"""The report of one request: :class:`ReuseReport`."""

from __future__ import annotations

import html
import uuid
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from semshare_core.report.first_difference import FirstDifference
from semshare_core.report.token_runs import runs_of, tokens_of
from semshare_core.report.token_strip import strip

Outcome = Literal["miss", "prefix", "semantic", "bypass"]
CanaryStatus = Literal["pending", "measured", "dropped", "failed"]


class Canary(BaseModel):
    """The background check of one request: how far its answer lies from the full prefill's.

    Attributes:
        id: names the check, in every copy of the report.
        status: ``pending``: not measured yet · ``measured`` · ``dropped``: too many checks were waiting, or the engine
            was closed · ``failed``: an error, which ``engine.canary.errors`` has.
        level: the requested level, or ``custom``; ``served_level``: the level that was used.
        method: settings that differ from those in calibration, such as ``matching=lsh``; empty if there are none.
        tokens: so many tokens of the answer were compared.
        kl: KL(full prefill || reuse) in nats, the mean over these tokens; None until measured.
        agreement: share of these tokens at which both find the same token likeliest; None until measured.
        bound: the largest ``kl`` that the requested level promises for all but a small share of requests; None: no
            promise.
        broken: whether ``kl`` exceeds ``bound``; None without a bound or until measured.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    status: CanaryStatus = "pending"
    level: str
    served_level: str
    method: str = ""
    tokens: int = 0
    kl: float | None = None
    agreement: float | None = None
    bound: float | None = None
    broken: bool | None = None

    def summary(self) -> str:
        """In words."""
        if self.kl is None:
            return self.status
        promise = "no bound" if self.broken is None else f"bound {self.bound} {'broken' if self.broken else 'kept'}"
        return f"KL {self.kl:.4f} over {self.tokens} tokens, agreement {self.agreement:.2f}, {promise}"


class ReuseReport(BaseModel):
    """What one request reused and recomputed, and how long it took. JSON-able: ``report.model_dump_json()``.

    ``prefix + moved + fuzzy + new = prompt`` tokens. Times are milliseconds; ``ttft_ms`` runs from the prompt's arrival
    to the first token and contains ``queue_ms``, ``lookup_ms``, ``match_ms`` and ``prefill_ms``.

    Attributes:
        id: names the call, in every copy of the report.
        arrived_at: when the prompt arrived, in seconds of Unix time.
        outcome: ``miss``: nothing worth reusing in the pool · ``prefix``: nothing but the rows of a common prefix, as
            they are (lossless if ``account`` is 0 and no compressor drops rows) · ``semantic``: approximate reuse ·
            ``bypass``: reuse was switched off, or would not have paid or been good enough.
        reason: why, in words; ``docs/why.md`` explains each :class:`semshare_core.report.reasons.Reason`. No call of an
            engine is without one.
        level: the requested level, or ``custom`` for a policy with its own ratio.
        served_level: the level that was used: a stricter one where the canary found the promise broken.
        reference_ids: the pooled prompts that served tokens.
        similarity: of the most similar reference, in [0, 1]; None when no search was made.
        queue_ms: how long the request waited for the model, which serves one at a time.
        lossless_prefix_tokens: so many leading tokens were served by rows that are a full prefill's. It is what other
            servers count as cached tokens.
        recomputed_tokens: tokens whose final rows were computed, the last prompt token included.
        recompute_ratio: rows computed / (prompt tokens x layers), the first layer included.
        kv_bytes: keys and values kept for decoding when it begins; ``kv_bytes_full``: uncompressed.
        calibration: the calibration that chose how much is recomputed; ``default``: a fixed share, because the model
            has no calibration, or one for another method than the policy's; None: no level had to choose, not even
            whether an approximate prefix may serve.
        expected_kl: the KL to the full prefill that it forecast, in nats: the median, so half of such requests lie
            beyond it. For a prefix of approximate rows it is their account. 0 for lossless requests. None: nothing is
            known.
        account: in nats, an upper quantile of how far answers from this request's rows are believed to lie from the
            full prefill's. 0: all rows are a full prefill's (a compressor may drop some). None: nothing is known of it,
            because the policy's method is not calibrated.
        first_difference: where the prompt first departs from the nearest earlier prompt of its own namespace. None:
            there is no such prompt, or it begins with the whole prompt, or nothing was looked up (``reuse="off"``).
        stored: the prompt's rows were kept in the pool, for later calls.
        healed_tokens: so many of these rows were approximate, and were computed afresh in the background. It is 0 at
            first, and the engine completes it in this very object.
        token_sources: per prompt token 0 new, 1 fuzzy, 2 moved, 3 prefix. What messages carry (:meth:`brief`) has
            ``token_runs`` instead.
        token_recomputed: per prompt token 1 if its final row was computed.
        canary: the background check of this request; None if there is none. It is ``pending`` at first. When the check
            is done, the engine replaces it in this very object; copies stay as they were.
    """

    model_config = ConfigDict(extra="forbid")

    id: str = Field(default_factory=lambda: uuid.uuid4().hex, repr=False)
    arrived_at: float = 0.0
    outcome: Outcome
    reason: str = ""
    level: str
    served_level: str = ""
    reference_ids: list[str] = []
    similarity: float | None = None
    prompt_tokens: int
    prefix_tokens: int = 0
    moved_tokens: int = 0
    fuzzy_tokens: int = 0
    new_tokens: int = 0
    lossless_prefix_tokens: int = 0
    recomputed_tokens: int = 0
    recompute_ratio: float = 1.0
    queue_ms: float = 0.0
    lookup_ms: float = 0.0
    match_ms: float = 0.0
    prefill_ms: float = 0.0
    ttft_ms: float = 0.0
    decode_ms: float = 0.0
    kv_bytes: int = 0
    kv_bytes_full: int = 0
    account: float | None = 0.0
    calibration: str | None = None
    expected_kl: float | None = None
    first_difference: FirstDifference | None = None
    generated_tokens: int = 0
    stored: bool = False
    healed_tokens: int = 0
    token_sources: list[int] = Field(default=[], repr=False)
    token_recomputed: list[int] = Field(default=[], repr=False)
    canary: Canary | None = None

    @property
    def reused_tokens(self) -> int:
        """Prompt tokens that were served and not computed again."""
        return self.prompt_tokens - self.recomputed_tokens

    @model_validator(mode="before")
    @classmethod
    def _from_runs(cls, data: Any) -> Any:
        """Reads what :meth:`brief` gives."""
        if isinstance(data, dict) and "token_runs" in data:
            data = dict(data)
            data["token_sources"], data["token_recomputed"] = tokens_of(data.pop("token_runs"))
        return data

    def brief(self) -> dict[str, Any]:
        """What messages, events and traces carry, JSON-able: a few kilobytes, however long the prompt is.

        Instead of two numbers per token it has ``token_runs``, a list of ``[source, recomputed, tokens]``; an empty one
        where there are more than 256 runs. Of the first difference it has index and kind, and quotes no prompt.
        ``ReuseReport.model_validate`` reads it back.
        """
        fields = self.model_dump(mode="json", exclude={"token_sources", "token_recomputed", "first_difference"})
        fields["first_difference"] = self.first_difference.brief() if self.first_difference is not None else None
        return {**fields, "token_runs": [list(run) for run in runs_of(self.token_sources, self.token_recomputed)]}

    def summary(self) -> str:
        """One line for logs and consoles."""
        queued = f" ({self.queue_ms:.0f} in the queue)" if self.queue_ms >= 0.5 else ""
        departs = f", first difference at {self.first_difference.summary()}" if self.first_difference else ""
        return (
            f"{self.outcome}: {self.prompt_tokens} tokens = {self.prefix_tokens} prefix + {self.moved_tokens} moved + "
            f"{self.fuzzy_tokens} fuzzy + {self.new_tokens} new, recompute ratio {self.recompute_ratio:.2f}, "
            f"TTFT {self.ttft_ms:.0f} ms{queued}{departs}"
        )

    def _repr_html_(self) -> str:
        served = "" if self.served_level in ("", self.level) else f", served at {self.served_level}"
        rows = [
            ("outcome", f"{self.outcome} ({self.reason})" if self.reason else self.outcome),
            ("level", self.level + served),
            ("tokens", f"{self.prefix_tokens} prefix, {self.moved_tokens} moved, {self.fuzzy_tokens} fuzzy, "
                       f"{self.new_tokens} new of {self.prompt_tokens}"),
            ("recompute ratio", f"{self.recompute_ratio:.3f}"),
            ("TTFT", f"{self.ttft_ms:.0f} ms (queue {self.queue_ms:.0f}, lookup {self.lookup_ms:.1f}, "
                     f"matching {self.match_ms:.1f}, prefill {self.prefill_ms:.0f})"),
            ("KV for decoding", f"{self.kv_bytes / 2**20:.1f} of {self.kv_bytes_full / 2**20:.1f} MiB"),
        ]  # fmt: skip
        if self.first_difference is not None:
            rows.insert(1, ("first difference", self.first_difference.summary()))
        if self.canary is not None:
            rows.append(("canary", self.canary.summary()))
        cells = "".join(f"<tr><th>{html.escape(a)}</th><td>{html.escape(b)}</td></tr>" for a, b in rows)
        return f"<table>{cells}</table>{strip(self.token_sources, self.token_recomputed)}"
