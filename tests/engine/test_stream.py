"""Streaming: the pieces are the answer, the last one carries the report, and who leaves early frees the engine."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from semshare_core import Piece, ReusePolicy, SemShareEngine
from semshare_core.decode.sampling import SamplingParams
from semshare_core.decode.stop_strings import settled_length, stop_at
from semshare_core.errors import CallCancelledError, ConfigError, PromptError
from semshare_core.process.interrupt import Interrupt
from tiny_models import tiny_model, tiny_tokenizer
from tiny_reuse import PARAGRAPHS

pytestmark = pytest.mark.usefixtures("one_thread")

TEXT = "\n\n".join(PARAGRAPHS[:2])


@pytest.fixture(scope="module")
def shared() -> SemShareEngine:
    return SemShareEngine(tiny_model("llama"), tiny_tokenizer())


@pytest.fixture
def engine(shared: SemShareEngine) -> Iterator[SemShareEngine]:
    shared.pool.clear()
    yield shared
    assert not shared._lock.locked()
    assert not [thread for thread in threading.enumerate() if thread.name == "semshare-stream"]


@pytest.mark.parametrize("temperature", [0.0, 1.5])
@pytest.mark.parametrize("seed", range(4))
def test_the_pieces_are_the_answer(engine: SemShareEngine, temperature: float, seed: int) -> None:
    """Random weights say random bytes: half characters that later bytes complete or do not."""
    settings = {"max_new_tokens": 40, "temperature": temperature, "seed": seed, "store": False}
    whole = engine.generate(TEXT[seed:], **settings)
    pieces = list(engine.stream(TEXT[seed:], **settings))
    assert "".join(piece.text for piece in pieces) == whole.text
    assert len(pieces) > 3
    assert all(piece.report is None and piece.finish_reason is None for piece in pieces[:-1])
    assert all(piece.text for piece in pieces[:-1])
    last = pieces[-1]
    assert last.finish_reason == whole.finish_reason
    assert last.report is not None
    assert last.report.generated_tokens == len(whole.token_ids)
    assert last.report.prompt_tokens == len(TEXT) - seed


def test_nothing_of_a_stop_string_is_streamed(engine: SemShareEngine) -> None:
    whole = engine.generate(TEXT, max_new_tokens=60, store=False).text
    checked = 0
    for at in range(5, len(whole) - 4):
        stop = whole[at : at + 3]
        if "\ufffd" in stop:
            continue
        pieces = list(engine.stream(TEXT, max_new_tokens=60, stop=[stop, "z" + stop], store=False))
        assert "".join(piece.text for piece in pieces) == whole[: whole.find(stop)]
        assert pieces[-1].finish_reason == "stop"
        checked += 1
        if checked == 3:
            return
    pytest.fail("no stop string without half characters to try")


@example("ba", "b", ["a", "bab"])
@given(
    st.text("ab\ufffd", max_size=12),
    st.text("ab\ufffd", max_size=6),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
)
def test_settled_text_stays(text: str, more: str, stop: list[str]) -> None:
    """Whatever comes, what was sent remains the beginning of the answer; half characters may still change."""
    settled = settled_length(text, stop)
    grown = text.rstrip("\ufffd") + more
    assert grown[: stop_at(grown, stop)].startswith(text[:settled])
    if not stop:
        assert settled == len(text.rstrip("\ufffd"))


@given(st.text("ab", max_size=12), st.text("ab", min_size=1, max_size=4))
def test_as_much_as_possible_is_settled(text: str, stop: str) -> None:
    """What is held back is the beginning of a stop string, and no more."""
    settled = settled_length(text, [stop])
    end = stop_at(text, [stop])
    assert settled == end if end < len(text) else stop.startswith(text[settled:])


def fail_at_the_first_of(stream: Iterator[Piece]) -> None:
    for _ in stream:
        raise ZeroDivisionError


@pytest.mark.parametrize("way", ["close", "break", "error"])
def test_leaving_early_frees_the_engine(engine: SemShareEngine, way: str) -> None:
    stream = engine.stream(TEXT, max_new_tokens=3000)
    if way == "close":
        next(stream)
        stream.close()
    elif way == "break":
        for _ in stream:
            break
        del stream
    else:
        with pytest.raises(ZeroDivisionError):
            fail_at_the_first_of(stream)
        del stream
    kept = engine.pool.stats().tokens
    assert kept < len(TEXT) + 1000, "generation ended long before its limit"
    assert engine.generate(TEXT, max_new_tokens=3, reuse="exact").report.outcome == "prefix"


def test_what_was_generated_before_leaving_is_kept_rightly(engine: SemShareEngine) -> None:
    whole = engine.generate(TEXT, max_new_tokens=60, store=False).token_ids
    stream = engine.stream(TEXT, max_new_tokens=3000)
    for _ in range(3):
        next(stream)
    stream.close()
    stats = engine.pool.stats()
    assert stats.entries == 1
    answer = engine.generate([*TEXT.encode(), *whole[:40]], max_new_tokens=20, reuse="exact", store=False)
    assert answer.report.prefix_tokens >= len(TEXT)
    assert answer.token_ids == whole[40:]


def test_a_stream_that_is_never_read_does_nothing(engine: SemShareEngine) -> None:
    stream = engine.stream(TEXT, max_new_tokens=5)
    assert engine.generate(TEXT, max_new_tokens=2, store=False).report.outcome == "miss"
    del stream
    assert engine.pool.stats().entries == 0


def test_who_gave_up_before_his_turn_computes_nothing(engine: SemShareEngine) -> None:
    gone = threading.Event()
    gone.set()
    with pytest.raises(CallCancelledError):
        engine._answer(TEXT, SamplingParams(), None, None, True, Interrupt(gone))
    assert engine.pool.stats().entries == 0


@pytest.mark.parametrize(
    ("prompt", "options", "error"),
    [
        ("", {}, PromptError),
        (TEXT, {"reuse": "sideways"}, ConfigError),
        (TEXT, {"reuse": ReusePolicy.paper}, ConfigError),
    ],
)
def test_errors_reach_the_consumer(engine: SemShareEngine, prompt: str, options: dict, error: type[Exception]) -> None:
    with pytest.raises(error):
        list(engine.stream(prompt, **options))
    assert engine.generate(TEXT, max_new_tokens=1, store=False).token_ids


def test_an_error_in_the_model_reaches_the_consumer(engine: SemShareEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def fail(*args: object, **kwargs: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise MemoryError("no room")

    handle = engine.model.model.layers[2].register_forward_pre_hook(fail)
    stream = engine.stream(TEXT, max_new_tokens=50)
    with pytest.raises(MemoryError, match="no room"):
        list(stream)
    handle.remove()
    assert engine.pool.stats().entries == 0
    assert len(engine.generate(TEXT, max_new_tokens=3).token_ids) == 3


def test_several_streams_take_turns(engine: SemShareEngine) -> None:
    expected = [engine.generate(text, max_new_tokens=15, store=False).text for text in PARAGRAPHS]
    found: dict[int, str] = {}

    def consume(index: int) -> None:
        found[index] = "".join(
            piece.text for piece in engine.stream(PARAGRAPHS[index], max_new_tokens=15, reuse="exact")
        )

    threads = [threading.Thread(target=consume, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[index] for index in range(4)] == expected
