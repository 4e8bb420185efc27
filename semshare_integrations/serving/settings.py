"""The server's settings."""

from __future__ import annotations

from pydantic import Field

from semshare_core.config import Settings


class ServeSettings(Settings):
    """What the server calls its model, and its limits.

    Attributes:
        model: the name that clients ask for.
        max_running: so many requests are handed to the engine at once. It serves one at a time; a second one is
            prepared meanwhile.
        max_waiting: so many more may wait. The next one gets status 429.
        max_waiting_tokens: so many tokens may run and wait, prompts (a token is taken for 4 bytes) and answers
            together. A single request may have more.
        max_body_bytes: a larger request gets status 413.
        timeout: in seconds, from the request to the end of its answer. It contains the time in the queue. Whoever
            has not read the answer a quarter of a minute later is cut off.
        default_max_tokens: the longest chat answer of a request that names no limit.
        max_choices: the largest ``n``, and the most prompts in a request.
        hosts: names under which a server that listens to its own machine alone may be asked, beside that machine's own.
        vllm_metrics: also show the metrics under vLLM's names.
    """

    model: str = Field(min_length=1)
    max_running: int = Field(default=2, ge=1)
    max_waiting: int = Field(default=64, ge=0)
    max_waiting_tokens: int = Field(default=1_000_000, ge=1)
    max_body_bytes: int = Field(default=16 * 2**20, ge=1)
    timeout: float = Field(default=600.0, gt=0)
    default_max_tokens: int = Field(default=1024, ge=1)
    max_choices: int = Field(default=16, ge=1)
    hosts: tuple[str, ...] = ()
    vllm_metrics: bool = False
