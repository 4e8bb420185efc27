"""Approximate rows that a folder has kept are healed, too: as soon as a call uses them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pooled import books_balance
from semshare_core import Heal, PoolConfig, SemShareEngine
from tiny_canary import busy
from tiny_healing import POLICY, WAIT, ask, entry_of, healing_engine, largest_error, prompt

pytestmark = pytest.mark.usefixtures("one_thread", "bounds_kept")

FOLLOWING = "What is it about? And who says so?"


def reopened(path: Path, heal: Heal | bool = True) -> SemShareEngine:
    """An engine over a folder in which an engine before it has left approximate rows."""
    before = healing_engine(path=path, heal=False)
    ask(before)
    before.pool.close()
    engine = SemShareEngine(before.model, before.tokenizer, policy=POLICY, pool=PoolConfig(path=path, heal=heal))
    assert engine.pool.stats().approximate == 1
    assert engine.healing.counts().waiting == 0, "start-up does not look for work"
    return engine


def use(engine: SemShareEngine, question: str = FOLLOWING, *, store: bool = False) -> None:
    """A call that draws on the approximate rows."""
    name = entry_of(engine).id
    report = engine.generate(prompt(0, question), max_new_tokens=4, store=store).report
    assert name in report.reference_ids
    assert report.healed_tokens == 0


def test_restored_rows_are_healed_when_a_call_uses_them(tmp_path: Path) -> None:
    engine = reopened(tmp_path)
    entry = entry_of(engine)
    assert largest_error(engine, entry) > 1e-3, "the test would see nothing"
    with busy(engine):
        use(engine)
        use(engine, f"{FOLLOWING} And why?")
        assert engine.healing.counts().waiting == 1
    assert engine.healing.wait(WAIT)
    assert not engine.healing.errors
    assert (engine.healing.counts().healed, engine.pool.stats().approximate) == (1, 0)
    assert entry_of(engine) is entry
    assert largest_error(engine, entry) < 1e-4
    assert books_balance(engine.pool)
    use(engine)
    assert engine.healing.counts().waiting == 0
    engine.pool.close()
    again = SemShareEngine(engine.model, engine.tokenizer, policy=POLICY, pool=PoolConfig(path=tmp_path, heal=False))
    assert again.pool.stats().approximate == 0, "the folder has followed"
    again.pool.close()


def test_a_restored_entry_that_a_stored_call_has_continued_is_behind_it(tmp_path: Path) -> None:
    engine = reopened(tmp_path)
    entry = entry_of(engine)
    with busy(engine):
        use(engine, store=True)
    assert engine.healing.wait(WAIT)
    counts = engine.healing.counts()
    assert (counts.healed, counts.behind) == (1, 1)
    assert entry.approximates
    engine.pool.close()


def test_restored_rows_that_are_cleared_meanwhile_do_not_come_back(tmp_path: Path) -> None:
    engine = reopened(tmp_path)
    with busy(engine):
        use(engine)
        engine.pool.clear()
    assert engine.healing.wait(WAIT)
    assert engine.pool.stats().entries == 0
    assert (engine.healing.counts().healed, engine.healing.counts().gone) == (0, 1)
    engine.pool.close()


@pytest.mark.parametrize("heal", [False, Heal(max_tokens=100)])
def test_restored_rows_are_left_where_the_settings_say_so(tmp_path: Path, heal: Heal | bool) -> None:
    engine = reopened(tmp_path, heal)
    use(engine)
    assert engine.healing.wait(WAIT)
    assert entry_of(engine).approximates
    assert engine.healing.counts().waiting == 0
    engine.pool.close()


def test_restored_rows_wait_while_other_weights_compute(tmp_path: Path) -> None:
    engine = reopened(tmp_path)
    with busy(engine):
        use(engine)
        with torch.no_grad():
            engine.model.model.layers[1].self_attn.v_proj.weight.mul_(2)
    assert engine.healing.wait(WAIT)
    assert entry_of(engine).approximates
    assert engine.healing.counts().waiting == 1
    engine.pool.close()


def test_what_could_not_be_healed_once_is_not_tried_at_every_use() -> None:
    engine = healing_engine()
    with busy(engine):
        ask(engine)
        [candidate] = engine.healing._order.every
        engine.healing._leave(candidate, "refused")
    use(engine)
    assert engine.healing.wait(WAIT)
    assert entry_of(engine).approximates
    assert engine.healing.counts().waiting == 0
