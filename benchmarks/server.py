"""What HTTP costs: the same requests in process and through ``semshare serve``, one at a time and eight at once.

    python -m benchmarks.server [--rounds 10] [--tokens 32] [--at 1 8]

Both ways take turns, so that a busy machine disturbs them alike. Nothing is reused or stored, so that both compute the
same. Printed is the time to the first token (mean of a round, median of the rounds), the tokens per second, and the
processor time of a request, the client's included: other work on the machine changes it least. Then come the ratios,
in process beside HTTP: the median over pairs of rounds that followed each other, and their quartiles. Above 1 HTTP was
faster.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import mean, median, quantiles

import openai

from semshare_core import SemShareEngine
from semshare_integrations.serving import DrainingServer, ServeSettings, make_app

PASSAGE = (
    "The lighthouse at Vinga was built in 1890. Its keeper lit the lamp every evening until it was made electric. "
)

Ask = Callable[[str, int], tuple[float, int]]
"""Answers a prompt with so many tokens. Returns the seconds to the first piece, and the number of tokens."""


@dataclass(frozen=True)
class Round:
    """Requests at once: the mean seconds to the first token, tokens per second, processor seconds of a request."""

    first: float
    speed: float
    processor: float


def prompts(number: int, count: int) -> list[str]:
    """Prompts of some 500 tokens, none of which was there before."""
    return [f"Round {number}, letter {each}.\n\n{PASSAGE * 20}\n\nWhat is it about?" for each in range(count)]


def in_process(engine: SemShareEngine) -> Ask:
    """The engine itself."""

    def ask(prompt: str, tokens: int) -> tuple[float, int]:
        began, first, count = time.perf_counter(), 0.0, 0
        for piece in engine.stream(prompt, max_new_tokens=tokens, reuse="off", store=False, eos_token_id=None):
            first = first or time.perf_counter() - began
            count = len(piece.token_ids or ())
        return first, count

    return ask


def over_http(url: str) -> Ask:
    """OpenAI's client."""
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    extra = {"ignore_eos": True, "semshare": {"reuse": "off", "store": False}}

    def ask(prompt: str, tokens: int) -> tuple[float, int]:
        began, first, count = time.perf_counter(), 0.0, 0
        with client.completions.create(
            model="demo",
            prompt=prompt,
            max_tokens=tokens,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
            extra_body=extra,
        ) as stream:
            for chunk in stream:
                first = first or time.perf_counter() - began
                count = chunk.usage.completion_tokens if chunk.usage is not None else 0
        return first, count

    return ask


def measured(ask: Ask, number: int, count: int, tokens: int) -> Round:
    """One round of ``count`` requests at once."""
    with ThreadPoolExecutor(count) as threads:
        began, processor = time.perf_counter(), time.process_time()
        results = list(threads.map(lambda prompt: ask(prompt, tokens), prompts(number, count)))
        seconds, processor = time.perf_counter() - began, (time.process_time() - processor) / count
    return Round(mean(first for first, _ in results), sum(tokens for _, tokens in results) / seconds, processor)


@contextmanager
def served(engine: SemShareEngine) -> Iterator[str]:
    """A server around ``engine``."""
    server = DrainingServer("127.0.0.1", 0, grace=5)
    gate = make_app(engine, ServeSettings(model="demo"))
    thread = threading.Thread(target=server.serve_app, args=(gate,), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.port}/v1"
    finally:
        server.should_exit = True
        thread.join()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--at", type=int, nargs="+", default=[1, 8], help="so many requests at once")
    parser.add_argument("--tokens", type=int, default=32)
    options = parser.parse_args()
    engine = SemShareEngine.from_pretrained("demo")
    with served(engine) as url:
        ways = {"in process": in_process(engine), "over HTTP": over_http(url)}
        for count in options.at:
            rounds: dict[str, list[Round]] = {name: [] for name in ways}
            for number in range(-1, options.rounds):  # the first warms up
                order = list(ways) if number % 2 else list(ways)[::-1]
                for name in order:
                    result = measured(ways[name], number, count, options.tokens)
                    if number >= 0:
                        rounds[name].append(result)
            for name, results in rounds.items():
                first, speed = median(r.first for r in results), median(r.speed for r in results)
                processor = median(r.processor for r in results)
                print(
                    f"{count} at once, {name:<10}: first token {1e3 * first:7.1f} ms, {speed:6.1f} tokens/s, "
                    f"{processor:6.3f} s of processor time a request",
                    flush=True,
                )
            direct, http = rounds.values()
            for name, ratios in (
                ("first token", [a.first / b.first for a, b in zip(direct, http, strict=True)]),
                ("tokens/s", [b.speed / a.speed for a, b in zip(direct, http, strict=True)]),
                ("processor time", [a.processor / b.processor for a, b in zip(direct, http, strict=True)]),
            ):
                low, middle, high = quantiles(ratios, n=4)
                print(f"{count} at once, {name}: {middle:.3f} of in process ({low:.3f} to {high:.3f})", flush=True)


if __name__ == "__main__":
    main()
