"""What a call holds in memory while it runs, and that nothing of it is left behind but what the pool counts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedModel, PreTrainedTokenizerBase

from chat_tokenizers import Says, sentencepiece_tokenizer
from semshare_core import PoolConfig, ReusePolicy, SemShareEngine
from semshare_core import request as request_module
from semshare_core.decode import generate as generate_module
from semshare_core.errors import DeviceMemoryError, NumericalError, PoolWarning
from semshare_core.pool import pool as pool_module
from semshare_core.pool.disk.segment_file import SegmentFile
from semshare_core.prefill.selective import SelectivePrefill
from semshare_core.quality.replay import Replay
from tiny_canary import TEXT, busy, reordered
from tiny_models import HEAD_DIM, HIDDEN, KV_HEADS, LAYERS, VOCAB, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread", "bounds_kept")

Live = Callable[[], int]

TOKEN = LAYERS * 2 * KV_HEADS * HEAD_DIM * 4
ALLOWED = (
    VOCAB * HIDDEN * 4 + 8 * TOKEN
)  # an engine's table of token embeddings, and small tensors; a sixth of a prompt
LONG = TEXT * 3


@pytest.fixture
def engine(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, live: Live) -> SemShareEngine:
    """A pool with room for two and a half of the prompts."""
    return SemShareEngine(model, tokenizer, pool=PoolConfig(max_bytes=int(2.5 * (len(TEXT) + 20) * TOKEN)))


def nothing_else(engine: SemShareEngine, live: Live) -> bool:
    left = live() - engine.pool.stats().bytes
    assert 0 <= left <= ALLOWED, f"{left / TOKEN} tokens are in memory that the pool does not count"
    return True


# The issue's own two.


def test_twenty_prompts_warmed_and_cleared(engine: SemShareEngine, live: Live) -> None:
    for _ in range(20):
        engine.pool.clear()
        engine.warm([TEXT])
    assert engine.pool.stats().entries == 1
    assert nothing_else(engine, live)


def test_twenty_prompts_through_a_budget_of_two_and_a_half(engine: SemShareEngine, live: Live) -> None:
    for number in range(20):
        engine.warm([f"{number:2} {TEXT}"])
    assert engine.pool.stats().entries == 2
    assert nothing_else(engine, live)


# Every way in.


def generated(engine: SemShareEngine, prompt: str, **settings: Any) -> None:
    engine.generate(prompt, max_new_tokens=8, **settings)


def streamed(engine: SemShareEngine, prompt: str, **settings: Any) -> None:
    assert len(list(engine.stream(prompt, max_new_tokens=40, **settings))) > 1


def left_early(engine: SemShareEngine, prompt: str, **settings: Any) -> None:
    pieces = engine.stream(prompt, max_new_tokens=40, **settings)
    next(pieces)
    pieces.close()


def left_before_it_began(engine: SemShareEngine, prompt: str, **settings: Any) -> None:
    engine.stream(prompt, max_new_tokens=40, **settings)


def cancelled(engine: SemShareEngine, prompt: str, **settings: Any) -> None:
    cancel = threading.Event()
    for _ in engine.stream(prompt, max_new_tokens=40, cancel=cancel, **settings):
        cancel.set()


def prefilled(engine: SemShareEngine, prompt: str, **settings: Any) -> None:
    engine.prefill(prompt, **settings)


def looked_at(engine: SemShareEngine, prompt: str, **settings: Any) -> None:
    engine.plan_features(prompt)


def without_numbers(engine: SemShareEngine, prompt: str, **settings: Any) -> None:
    class Broken(LogitsProcessor):
        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            raise NumericalError("broken")

    with pytest.raises(NumericalError):
        engine.generate(prompt, max_new_tokens=8, logits_processor=[Broken()], **settings)


WAYS_IN = [
    generated,
    streamed,
    left_early,
    left_before_it_began,
    cancelled,
    prefilled,
    looked_at,
    without_numbers,
]
REUSE = ["off", "exact", ReusePolicy(recompute_ratio=0.5), ReusePolicy.paper(recompute_ratio=0.5)]


@pytest.mark.parametrize("way", WAYS_IN)
def test_nothing_of_a_call_is_left_but_what_the_pool_counts(
    way: Callable[..., None], engine: SemShareEngine, live: Live
) -> None:
    engine.warm([TEXT])
    for number, reuse in enumerate(REUSE):
        way(engine, reordered(f"{number}?"), reuse=reuse)
        way(engine, reordered(f"{number}, and not kept?"), reuse=reuse, store=False)
        way(engine, f"{TEXT} {number}?", reuse=reuse)
        assert nothing_else(engine, live)
    engine.pool.clear()
    assert nothing_else(engine, live)


def test_a_prefill_is_the_callers_own(engine: SemShareEngine, live: Live) -> None:
    """Its cache shares nothing with the pool, and goes with it."""
    result = engine.prefill(TEXT)
    own = live() - engine.pool.stats().bytes
    assert own >= len(TEXT) * TOKEN
    engine.pool.clear()
    assert own - ALLOWED <= live() <= own + ALLOWED
    del result
    assert nothing_else(engine, live)


def test_an_engine_that_is_dropped_is_gone(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, live: Live, tmp_path: Path
) -> None:
    """At once, with its threads: no cycle waits for the garbage collector."""
    before = set(threading.enumerate())
    config = PoolConfig(path=tmp_path, ttl_seconds=1000)
    engine = SemShareEngine(model, tokenizer, pool=config, policy=ReusePolicy(level="balanced", canary=1.0))
    engine.warm([TEXT])
    engine.generate(reordered("Which?"), max_new_tokens=4)
    engine.canary.wait()
    threads = set(threading.enumerate()) - before
    assert threads
    del engine
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert live() <= ALLOWED
    SemShareEngine(model, tokenizer, pool=config).pool.close()  # the folder is free


# Calls that hold rows that leave meanwhile.


def test_what_is_cleared_during_a_long_stream_leaves_memory_then(engine: SemShareEngine, live: Live) -> None:
    """The stream has its own rows by the time that its first token is out; those it came from are not needed."""
    engine.warm([TEXT])
    pieces = engine.stream(reordered("Which?"), max_new_tokens=300, reuse=ReusePolicy(recompute_ratio=0.5))
    next(pieces)
    before = live()
    freed = engine.pool.stats().bytes
    engine.pool.clear()
    assert live() <= before - freed + ALLOWED
    assert next(pieces).text is not None
    pieces.close()
    assert nothing_else(engine, live)


def test_budget_and_one_entry_bound_a_call_at_its_end(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a call's rows are copied into a full pool, memory holds the budget and the call's own cache."""
    budget = int(2.5 * len(TEXT) * TOKEN)
    engine = SemShareEngine(model, tokenizer, pool=PoolConfig(max_bytes=budget))
    most: list[int] = []
    own_rows = pool_module.own_rows

    def watched(*arguments: Any, **settings: Any) -> Any:
        made = own_rows(*arguments, **settings)
        most.append(live())
        return made

    monkeypatch.setattr(pool_module, "own_rows", watched)
    longest = 0
    for number in range(6):
        for prompt in (f"{number} {TEXT}", f"{TEXT[: 60 * number]} {number} {TEXT[::-1]}", reordered(str(number))):
            reuse = ReusePolicy(recompute_ratio=0.5) if number % 2 else "exact"
            engine.generate(prompt, max_new_tokens=30, reuse=reuse)
            longest = max(longest, len(prompt) + 30)
            assert nothing_else(engine, live)
    assert len(most) > 10
    assert max(most) <= budget + (longest + 1) * TOKEN + ALLOWED


def test_a_damaged_file_does_not_leave_two_caches(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, live: Live, tmp_path: Path
) -> None:
    """The call is served again, and what it had begun with is gone before."""
    engine = SemShareEngine(model, tokenizer, pool=PoolConfig(path=tmp_path))
    engine.warm([LONG])
    engine.pool.close()
    engine = SemShareEngine(model, tokenizer, pool=PoolConfig(path=tmp_path))
    (file,) = tmp_path.rglob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    begun: list[int] = []
    serve = engine._prefill.prefill_suffix

    def watched(*arguments: Any, **settings: Any) -> Any:
        begun.append(live())
        return serve(*arguments, **settings)

    engine._prefill.prefill_suffix = watched  # type: ignore[method-assign]
    with pytest.warns(PoolWarning, match="damaged"):
        engine.generate(LONG + " Which?", max_new_tokens=4, reuse="exact")
    assert len(begun) == 2
    assert begun[1] <= begun[0] + ALLOWED
    engine.pool.flush()
    assert nothing_else(engine, live)
    engine.pool.close()


def test_rows_on_disk_are_let_go_of_after_the_call(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, live: Live, tmp_path: Path
) -> None:
    """No file stays mapped that was read, although its entry stays."""
    owner = SemShareEngine(model, tokenizer, pool=PoolConfig(path=tmp_path))
    owner.warm([TEXT])
    owner.pool.close()  # else a reader may come before the record is written
    opened: list[str] = []
    init, gone = SegmentFile.__init__, []

    class Watched:
        def __init__(self, name: str) -> None:
            self.name = name

        def __del__(self) -> None:
            gone.append(self.name)

    def watched(self: SegmentFile, path: Path) -> None:
        init(self, path)
        self.watched = Watched(path.name)  # type: ignore[attr-defined]
        opened.append(path.name)

    engine = SemShareEngine(model, tokenizer, pool=PoolConfig(path=tmp_path, max_bytes=0, read_only=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SegmentFile, "__init__", watched)
        report = engine.generate(reordered("Which?"), max_new_tokens=4, reuse=ReusePolicy(recompute_ratio=0.5)).report
        assert report.outcome == "semantic"
        engine.pool.flush()
    assert opened
    assert sorted(opened) == sorted(gone)
    assert nothing_else(engine, live)


# Errors and checks.


class Broken(LogitsProcessor):
    """Fails in the middle of an answer."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        raise RuntimeError("broken")


@pytest.mark.parametrize("streams", [False, True])
def test_an_error_that_is_kept_keeps_no_rows(streams: bool, engine: SemShareEngine, live: Live) -> None:
    """Notebooks keep the last error, and tasks theirs; a traceback holds every variable on its way."""
    engine.warm([TEXT])

    def ask(number: int) -> None:
        asked = engine.stream if streams else engine.generate
        list(asked(f"{TEXT} {number}?", max_new_tokens=8, logits_processor=[Broken()]))  # type: ignore[call-overload]

    kept = []
    for number in range(3):
        with pytest.raises(RuntimeError, match="broken") as caught:
            ask(number)
        kept.append(caught.value)
    assert kept[0].__traceback__ is not None
    assert nothing_else(engine, live)


def test_an_error_of_the_callers_own_is_left_as_it_is(engine: SemShareEngine) -> None:
    """Who asks while he handles an error of his own finds that one whole."""

    def failing() -> None:
        detail = "kept"
        raise ValueError(detail)

    def handling() -> None:
        try:
            failing()
        except ValueError:
            with pytest.raises(RuntimeError, match="broken"):
                engine.generate(TEXT, max_new_tokens=4, logits_processor=[Broken()])
            raise

    with pytest.raises(ValueError, match="kept") as caught:
        handling()
    assert caught.traceback[-1].frame.f_locals["detail"] == "kept"


def test_an_answer_is_not_lost_where_there_is_no_memory_to_keep_it(
    engine: SemShareEngine, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The budget is larger than what the device has left."""

    def full(*arguments: Any, **settings: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory.")

    engine.warm([TEXT])
    monkeypatch.setattr(pool_module, "own_rows", full)
    with pytest.warns(PoolWarning, match="not kept: out of memory"):
        answer = engine.generate(reordered("Which?"), max_new_tokens=4, reuse="exact")
    assert len(answer.token_ids) == 4
    assert answer.report.stored is False
    assert engine.pool.stats().entries == 1
    assert nothing_else(engine, live)


def test_an_interrupt_while_the_prompt_is_computed(
    engine: SemShareEngine, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.warm([TEXT])
    run = engine._prefill._forward.run

    def interrupted(*arguments: Any, **settings: Any) -> None:
        run(*arguments, **settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(engine._prefill._forward, "run", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        engine.prefill(reordered("Which?"), reuse=ReusePolicy(recompute_ratio=0.5))
    assert caught.value is not None
    assert nothing_else(engine, live)


def test_checks_of_the_canary_hold_three_copies_at_most(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, live: Live
) -> None:
    """Two wait and one runs; when they are done nothing of them is left."""
    policy = ReusePolicy(level="fast", canary=1.0)
    engine = SemShareEngine(model, tokenizer, policy=policy)
    engine.warm([TEXT])
    prompt = 0
    with busy(engine):
        for number in range(6):
            prompt = max(prompt, len(reordered(f"{number}?")))
            engine.generate(reordered(f"{number}?"), max_new_tokens=4, store=False)
        assert live() <= engine.pool.stats().bytes + 3 * prompt * TOKEN + ALLOWED
    assert engine.canary.wait()
    assert engine.canary.counts().measured >= 2
    assert nothing_else(engine, live)
    engine.canary.close()


# The frameworks' models.


@pytest.mark.parametrize("framework", ["langchain", "langchain chat", "llama_index"])
def test_a_model_of_a_framework_that_is_dropped_is_gone(
    framework: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, live: Live
) -> None:
    """Answers, a stream and a stream left early; then the object goes, and its pool with it."""
    llm: Any
    if framework == "llama_index":
        from semshare_integrations.llama_index import SemShareLLM as LlamaIndexLLM

        llm = LlamaIndexLLM(model=model, tokenizer=tokenizer, max_new_tokens=20)
        ask, stream = llm.complete, llm.stream_complete
    else:
        from semshare_integrations.langchain import ChatSemShare, SemShareLLM

        llm = (SemShareLLM if framework == "langchain" else ChatSemShare)(
            model=model, tokenizer=tokenizer, max_new_tokens=20
        )
        ask, stream = llm.invoke, llm.stream
    for number in range(3):
        ask(f"{number} {TEXT}")
        list(stream(f"{TEXT} {number}"))
        pieces = stream(f"{TEXT} {number}, left early")
        next(pieces)
        pieces.close()
    assert nothing_else(llm.engine, live)
    del llm, ask, stream, pieces
    end = time.monotonic() + 20
    while live() > ALLOWED and time.monotonic() < end:
        time.sleep(0.05)
    assert live() <= ALLOWED


def test_what_is_counted_is_what_a_token_takes(engine: SemShareEngine, live: Live) -> None:
    """The other tests would pass if nothing were counted."""
    before = live()
    cache = engine.prefill(TEXT, store=False).cache
    assert abs(live() - before - (len(TEXT) + 1) * TOKEN) <= ALLOWED
    assert isinstance(cache.layers[0].keys, torch.Tensor)


def _out_of_memory(*_: Any, **__: Any) -> Any:
    raise torch.OutOfMemoryError("out of memory")


@pytest.mark.parametrize("host_bytes", [0, 2**24], ids=["no host tier", "host tier"])
def test_a_call_without_memory_gets_the_pools(host_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = PoolConfig(host_bytes=host_bytes, heal=False)
    engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer(), policy=ReusePolicy(recompute_ratio=0.4), pool=pool)
    engine.warm([TEXT])
    moved = TEXT[100:] + TEXT[:100]
    expected = engine.generate(moved, max_new_tokens=4, store=False)
    prefill, on_device = SelectivePrefill.selective, []

    def crowded(self: SelectivePrefill, *arguments: Any, **named: Any) -> Any:
        on_device.append(engine.pool.stats().device_bytes)
        if on_device[-1]:
            _out_of_memory()
        return prefill(self, *arguments, **named)

    monkeypatch.setattr(SelectivePrefill, "selective", crowded)
    found = engine.generate(moved, max_new_tokens=4, store=False)
    assert on_device[0] > 0
    assert on_device[1:] == ([0] if host_bytes else []), "without a host tier there is nothing left to draw on"
    assert found.report.outcome == ("semantic" if host_bytes else "miss")
    if host_bytes:
        assert found.token_ids == expected.token_ids


def test_a_call_that_has_too_little_memory_in_any_case_says_so(
    engine: SemShareEngine, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.warm([TEXT])
    with monkeypatch.context() as patch:
        patch.setattr(request_module, "decode", _out_of_memory)
        with pytest.raises(DeviceMemoryError, match="shorten the prompt"):
            engine.generate(TEXT, max_new_tokens=4)
    assert engine.pool.stats().entries == 0, "it had to leave"
    assert len(engine.generate(TEXT, max_new_tokens=4).token_ids) == 4


def test_no_token_comes_twice_where_memory_is_out_in_the_midst_of_an_answer(
    engine: SemShareEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = iter(range(100))

    def check(logits: torch.Tensor) -> None:
        if next(steps) == 2:
            _out_of_memory()

    monkeypatch.setattr(generate_module, "check_logits", check)
    pieces: list[str] = []
    with pytest.raises(DeviceMemoryError):
        pieces.extend(engine.stream(TEXT, max_new_tokens=6))
    assert next(steps) == 3, "the call was not begun again"


def test_a_finished_answer_is_not_lost_where_memory_is_out_for_what_comes_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The copy for the canary, and the rows of the answer as it will be spelled."""
    engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer(), policy=ReusePolicy(recompute_ratio=0.4, canary=1.0))
    engine.warm([TEXT])
    monkeypatch.setattr(Replay, "of", _out_of_memory)
    out = engine.generate(TEXT[100:] + TEXT[:100], max_new_tokens=4)
    assert len(out.token_ids) == 4
    assert out.report.canary is not None
    assert out.report.canary.status == "dropped"
    spelled = SemShareEngine(tiny_model("llama"), sentencepiece_tokenizer("first"))
    letters = [spelled.tokenizer.convert_tokens_to_ids(token) for token in ["▁", "i", "t", "▁", "i", "s"]]
    monkeypatch.setattr(SelectivePrefill, "recompute_tail", _out_of_memory)
    prompt = "The lighthouse at Vinga was built in 1841. Is that so?"
    said = spelled.generate(prompt, logits_processor=[Says([*letters, spelled.tokenizer.eos_token_id])])
    assert said.text == " it is"
    assert said.report.stored
    assert spelled.generate(prompt + "!", max_new_tokens=1, reuse="exact").report.prefix_tokens > 10
