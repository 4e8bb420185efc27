"""Situations in which a process forks: ``python tests/fork_situations.py FOLDER`` runs all, and prints what failed.

The test process has threads and must not fork. A child that hangs ends with the traceback of all its threads.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from semshare_core import PoolConfig, ReusePolicy, SemShareEngine
from semshare_core.errors import ProcessError
from tiny_models import tiny_model, tiny_tokenizer

TEXT = "The river ran past the old mill and the miller's daughter. " * 10
LIMIT = 20


def in_child(work: Callable[[], None]) -> None:
    """Fork, and have the child do ``work``; its failure is the process's."""
    pid = os.fork()
    if pid == 0:
        faulthandler.dump_traceback_later(LIMIT, exit=True, file=sys.stdout)
        try:
            work()
        except BaseException:
            traceback.print_exc(file=sys.stdout)
            sys.stdout.flush()
            os._exit(1)
        os._exit(0)
    if os.waitpid(pid, 0)[1]:
        sys.exit(f"the child of process {os.getpid()} failed")


def made(folder: str | None = None, **policy: object) -> SemShareEngine:
    """An engine that has used OpenMP's threads, and whose pool holds ``TEXT``."""
    engine = SemShareEngine(
        tiny_model("llama"),
        tiny_tokenizer(),
        pool=PoolConfig(path=folder),
        policy=ReusePolicy(recompute_ratio=0.3, **policy),
    )
    torch.randn(2_000_000).sigmoid_()
    engine.warm([TEXT])
    engine.pool.flush()
    return engine


def answers(engine: SemShareEngine, wanted: list[int]) -> None:
    """The engine answers by every way in, and as it did before."""
    assert engine.generate(TEXT, max_new_tokens=4, reuse="off", store=False).token_ids == wanted
    found = engine.generate(TEXT, max_new_tokens=4, reuse="exact")
    assert found.token_ids == wanted
    *_, last = engine.stream(TEXT, max_new_tokens=4, reuse="exact")
    assert last.token_ids == wanted
    engine.warm(["Another text. " * 20])
    engine.prefill(f"Once more: {TEXT}")
    engine.pool.flush()
    assert engine.canary.wait(LIMIT)


def expected(engine: SemShareEngine) -> list[int]:
    return engine.generate(TEXT, max_new_tokens=4, reuse="off", store=False).token_ids


def busy(engine: SemShareEngine) -> Callable[[], None]:
    """Have calls run in another thread, one after the other; returns what ends that, once one runs."""
    ended = threading.Event()

    def work() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            engine.generate(f"{number}: {TEXT}", max_new_tokens=60)

    def end() -> None:
        ended.set()
        worker.join()

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    while not engine._lock.locked():
        time.sleep(0.001)
    return end


def idle(folder: str) -> None:
    """After the parent used the engine."""
    engine = made()
    wanted = expected(engine)

    def child() -> None:
        assert engine.pool.stats().entries == 1
        assert torch.get_num_threads() == 1
        answers(engine, wanted)
        assert engine.generate(TEXT, max_new_tokens=1).report.prefix_tokens > len(TEXT) // 2

    in_child(child)
    assert torch.get_num_threads() == 2
    answers(engine, wanted)


def running(folder: str) -> None:
    """While another thread's call has its hooks on the model."""
    engine = made()
    wanted = expected(engine)
    end = busy(engine)
    for _ in range(8):

        def child() -> None:
            assert not any(module._forward_pre_hooks or module._forward_hooks for module in engine.model.modules())
            assert engine.model.config._attn_implementation == "sdpa"
            answers(engine, wanted)

        in_child(child)
        time.sleep(0.007)
    end()
    answers(engine, wanted)


def canary(folder: str) -> None:
    """While a background check is under way."""
    engine = made(canary=1.0)
    wanted = expected(engine)
    end = busy(engine)
    for _ in range(3):
        in_child(lambda: answers(engine, wanted))
        time.sleep(0.01)

    def child() -> None:
        assert engine.canary.counts().pending == 0
        answers(engine, wanted)
        engine.canary.close()

    in_child(child)
    end()
    assert engine.canary.wait(LIMIT)


def with_folder(folder: str) -> None:
    """The parent owns the folder, and goes on writing to it."""
    engine = made(folder)
    wanted = expected(engine)

    def files() -> list[str]:
        return sorted(str(path) for path in Path(folder).rglob("*"))

    before = files()

    def child() -> None:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            answers(engine, wanted)
        assert sum("stays in memory" in str(each.message) for each in told) == 1
        assert engine.pool.stats().entries >= 2
        engine.pool.clear()
        engine.pool.close()
        assert files() == before

    in_child(child)
    end = busy(engine)
    in_child(lambda: answers(engine, wanted))
    end()
    engine.generate("After the fork. " * 20, max_new_tokens=1)
    entries = engine.pool.stats().entries
    engine.pool.close()
    again = SemShareEngine(engine.model, engine.tokenizer, pool=PoolConfig(path=folder))
    assert again.pool.stats().entries == entries


def rows_on_disk(folder: str) -> None:
    """The child reads what the parent wrote, while another thread of the parent opens files."""
    first = made(folder)
    first.pool.close()
    engine = SemShareEngine(first.model, first.tokenizer, pool=PoolConfig(path=folder))
    wanted = expected(engine)

    def child() -> None:
        report = engine.generate(TEXT, max_new_tokens=4, reuse="exact").report
        assert report.prefix_tokens == len(TEXT) - 1
        answers(engine, wanted)

    in_child(child)


def in_a_call(folder: str) -> None:
    """A call forks itself: it goes on in both processes."""
    engine = made()
    wanted = expected(engine)
    forked: list[int] = []

    def processor(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not forked:
            forked.append(os.fork())
            if forked[0] == 0:
                faulthandler.dump_traceback_later(LIMIT, exit=True)
        return scores

    out = engine.generate(TEXT, max_new_tokens=4, reuse="exact", logits_processor=[processor])
    assert out.token_ids == wanted
    answers(engine, wanted)
    if forked[0] == 0:
        os._exit(0)
    assert os.waitpid(forked[0], 0)[1] == 0


def half_read_stream(folder: str) -> None:
    """A stream of the parent is read on in the child, whose worker thread is not there."""
    engine = made()
    wanted = expected(engine)
    stream = engine.stream(TEXT, max_new_tokens=50)
    next(stream)

    def child() -> None:
        with pytest.raises(ProcessError, match="start a new stream"):
            next(stream)
        answers(engine, wanted)

    in_child(child)
    assert list(stream)[-1].finish_reason


def held_pool(folder: str) -> None:
    """The pool is in the middle of a change that takes longer than a fork waits: the child begins with an empty one."""
    engine = made(folder)
    wanted = expected(engine)
    taken, over = threading.Event(), threading.Event()

    def hold() -> None:
        with engine.pool._lock:
            taken.set()
            over.wait(LIMIT)

    threading.Thread(target=hold, daemon=True).start()
    taken.wait(LIMIT)

    def child() -> None:
        assert engine.pool.stats().entries == 0
        answers(engine, wanted)
        assert engine.pool.stats().entries > 0

    in_child(child)
    over.set()
    assert engine.pool.stats().entries == 1


def accelerator(folder: str) -> None:
    """The model has weights on a device that a child cannot use."""
    engine = made()
    engine.model.register_parameter("far", torch.nn.Parameter(torch.empty(1, device="meta"), requires_grad=False))

    def child() -> None:
        for call in (lambda: engine.generate(TEXT), lambda: list(engine.stream(TEXT)), lambda: engine.warm([TEXT])):
            with pytest.raises(ProcessError, match="'spawn'"):
                call()

    in_child(child)
    del engine.model.far
    engine.generate(TEXT, max_new_tokens=1)


def loading(folder: str) -> None:
    """Another thread is loading the model: the child loads it by itself. And one whose model nobody has loaded yet."""
    from semshare_integrations.langchain import SemShareLLM

    begun, loader = threading.Event(), SemShareEngine.from_pretrained

    def slowly(*args: object, **settings: object) -> SemShareEngine:
        begun.set()
        if threading.current_thread() is not threading.main_thread():
            time.sleep(LIMIT)
        return made()

    SemShareEngine.from_pretrained = slowly  # type: ignore[method-assign,assignment]
    try:
        llm = SemShareLLM(model_id="demo", max_new_tokens=4)
        threading.Thread(target=lambda: llm.engine, daemon=True).start()
        begun.wait(LIMIT)

        def child() -> None:
            assert llm.invoke(TEXT)

        in_child(child)
    finally:
        SemShareEngine.from_pretrained = loader  # type: ignore[method-assign]


def made_in_the_child(folder: str) -> None:
    """The parent has computed, and imported us, but made no engine."""
    torch.randn(2_000_000).sigmoid_()
    in_child(lambda: answers(engine := made(folder), expected(engine)))


def sampled(folder: str) -> None:
    """Two children sample different answers, unless they are told the same seed."""
    engine = made()
    reader, writer = os.pipe()

    def child() -> None:
        free = engine.generate(TEXT, max_new_tokens=12, temperature=2.0).token_ids
        seeded = engine.generate(TEXT, max_new_tokens=12, temperature=2.0, seed=3).token_ids
        os.write(writer, f"{free}|{seeded}\n".encode())

    in_child(child)
    in_child(child)
    first, second = os.read(reader, 10_000).decode().splitlines()
    assert first.split("|")[0] != second.split("|")[0]
    assert first.split("|")[1] == second.split("|")[1]


def _answer(llm: object, answered: object) -> None:
    answered.put(llm.invoke(TEXT))  # type: ignore[attr-defined]


def by_multiprocessing(folder: str) -> None:
    """LangChain's model in processes that multiprocessing forks while it is in use."""
    from semshare_integrations.langchain import SemShareLLM, get_semshare_callback

    engine = made()
    llm = SemShareLLM(engine=engine, max_new_tokens=4, reuse="exact")
    end = busy(engine)
    forking = multiprocessing.get_context("fork")
    answered = forking.SimpleQueue()
    with get_semshare_callback() as calls:
        wanted = llm.invoke(TEXT)
        workers = [forking.Process(target=_answer, args=(llm, answered)) for _ in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(LIMIT)
            assert worker.exitcode == 0
        assert [answered.get() for _ in workers] == [wanted] * 3
    assert len(calls.reports) == 1
    end()


def healing(folder: str) -> None:
    """While approximate rows are computed afresh: the parent goes on with that, and the child heals its own."""
    engine = made()
    wanted = expected(engine)
    engine._lock._calls += 1  # nothing is healed before the fork
    engine.generate("Once more, and then again: " + TEXT, max_new_tokens=4)
    assert engine.pool.stats().approximate == 1

    def child() -> None:
        assert engine.healing.counts().waiting == 0
        assert engine.healing.wait(LIMIT)
        answers(engine, wanted)
        engine.generate("Twice more, as it were, and again: " + TEXT, max_new_tokens=4)
        assert engine.healing.wait(LIMIT)
        assert engine.healing.counts().healed > 0

    in_child(child)
    with engine._lock._changed:
        engine._lock._calls -= 1
        engine._lock._changed.notify_all()
    assert engine.healing.wait(LIMIT)
    assert engine.healing.counts().healed == 1
    answers(engine, wanted)


SITUATIONS = (
    idle,
    running,
    canary,
    healing,
    with_folder,
    rows_on_disk,
    in_a_call,
    half_read_stream,
    held_pool,
    accelerator,
    loading,
    made_in_the_child,
    sampled,
    by_multiprocessing,
)

if __name__ == "__main__":
    torch.set_num_threads(2)
    for each in SITUATIONS:
        print(f"=== {each.__name__}", flush=True)
        try:
            each(str(Path(sys.argv[1]) / each.__name__))
        except BaseException:
            traceback.print_exc(file=sys.stdout)
        else:
            print("answered", flush=True)
