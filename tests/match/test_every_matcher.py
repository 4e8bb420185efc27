"""What every matcher must do: run over all that are registered.

``python -m pytest tests/match/test_every_matcher.py -p MODULE`` runs it over those of your module, too.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from semshare_core import ReusePolicy, SemShareEngine
from semshare_core.match import Source, TokenTable, build_plan
from semshare_core.match.matchers import Candidate, Matcher, PlanRows, matcher_for
from semshare_core.slots import MATCHERS
from semshare_core.tokens import Positions, Tokens
from tiny_models import tiny_model, tiny_tokenizer
from tiny_reuse import PARAGRAPHS, full_logits

pytestmark = pytest.mark.usefixtures("one_thread")

every_matcher = pytest.mark.parametrize("matching", MATCHERS.names())

VOCABULARY = 40
TABLE = TokenTable(torch.randn(VOCABULARY, 16, generator=torch.Generator().manual_seed(0)))
SEEDS = range(12)


@dataclass(frozen=True)
class Text:
    id: str
    tokens: Tokens


def question(seed: int) -> tuple[Tokens, Positions, list[Candidate]]:
    """A target, some of it served already, and candidates of which the first has its own words in another order."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, VOCABULARY, int(rng.integers(1, 60)))
    served = rng.random(len(target)) < rng.choice([0.0, 0.5])
    served[int(rng.integers(0, len(target)))] = False
    candidates = []
    for number in range(int(rng.integers(1, 4))):
        tokens = rng.permutation(target) if number == 0 else rng.integers(0, VOCABULARY, len(target))
        tokens = tokens[: int(rng.integers(1, len(tokens) + 1))]  # often a shorter text than the target
        mine = served & (rng.random(len(target)) < 0.5)
        served &= ~mine  # one candidate serves a token, or none
        anchors = np.where(mine, rng.integers(0, len(tokens), len(target)), -1)
        candidates.append(Candidate(tokens, anchors))
    taken = np.any([candidate.anchors >= 0 for candidate in candidates], axis=0)
    return target, np.flatnonzero(~taken), candidates


def matcher(matching: str) -> Matcher:
    return matcher_for(ReusePolicy(matching=matching, seed=1), TABLE)


def lists(rows: PlanRows) -> list[list[int]]:
    return [rows.candidate.tolist(), rows.position.tolist()]


# --- the rows it finds -------------------------------------------------------------------------------------------


@every_matcher
def test_rows_are_the_candidates_and_one_for_each_token(matching: str) -> None:
    for seed in SEEDS:
        target, wanted, candidates = question(seed)
        rows = matcher(matching).match(target, wanted, candidates)
        assert rows.candidate.shape == rows.position.shape == wanted.shape
        assert rows.candidate.dtype.kind == rows.position.dtype.kind == "i"
        found = rows.candidate >= 0
        assert ((rows.candidate >= -1) & (rows.candidate < len(candidates))).all()
        assert (rows.position[~found] == -1).all()
        for number, candidate in enumerate(candidates):
            positions = rows.position[rows.candidate == number]
            assert ((positions >= 0) & (positions < len(candidate.tokens))).all()


@every_matcher
def test_the_same_question_has_the_same_answer(matching: str) -> None:
    for seed in SEEDS:
        one, other = (matcher(matching).match(*question(seed)) for _ in range(2))
        assert lists(one) == lists(other)


@every_matcher
def test_what_it_is_given_stays_as_it_is(matching: str) -> None:
    for seed in SEEDS:
        given = question(seed)
        before = copy.deepcopy(given)
        matcher(matching).match(*given)
        for (target, wanted, candidates), (same, asked, others) in [(given, before)]:
            assert (target.tolist(), wanted.tolist()) == (same.tolist(), asked.tolist())
            for candidate, other in zip(candidates, others, strict=True):
                assert candidate.tokens.tolist() == other.tokens.tolist()
                assert candidate.anchors.tolist() == other.anchors.tolist()


# --- the plan ----------------------------------------------------------------------------------------------------


def texts(seed: int) -> tuple[Tokens, list[Text]]:
    """A target of passages of two texts, some words changed, and the texts."""
    rng = np.random.default_rng(seed)
    references = [Text(name, rng.integers(0, VOCABULARY, 60)) for name in ("a", "b")]
    target = np.concatenate((references[0].tokens[:12], references[1].tokens[5:40], references[0].tokens[30:]))
    changed = rng.random(len(target)) < 0.2
    changed[:12] = False
    return np.where(changed, rng.integers(0, VOCABULARY, len(target)), target), references


@every_matcher
@pytest.mark.parametrize("fuzzy", [(), ("a",), ("b", "a")])
def test_every_token_is_served_by_the_best_source_that_has_it(matching: str, fuzzy: Sequence[str]) -> None:
    policy = ReusePolicy(matching=matching)
    chosen = matcher(matching)
    for seed in SEEDS:
        target, references = texts(seed)
        plan = build_plan(target, references, policy, TABLE, prefix=("a", 12), fuzzy=fuzzy)
        assert sum(plan.count(source) for source in Source) == len(target)
        assert plan.prefix_tokens == 12
        runs = build_plan(target, references, ReusePolicy(matching="runs"), TABLE, prefix=("a", 12))
        moved = plan.source == Source.MOVED
        assert (moved == ((runs.source == Source.MOVED) & chosen.after_runs)).all()
        served_by = {plan.reference_ids[number] for number in plan.reference[plan.source == Source.FUZZY]}
        assert served_by <= set(fuzzy[: chosen.max_partners])


# --- the engine --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine() -> SemShareEngine:
    """A pool of two prompts."""
    engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer())
    engine.warm(["\n\n".join(PARAGRAPHS[:2]), "\n\n".join(PARAGRAPHS[2:])])
    return engine


TARGET = "\n\n".join((PARAGRAPHS[1].upper(), PARAGRAPHS[3], PARAGRAPHS[0][:60], "Which of them is about the sea?"))


@every_matcher
def test_everything_recomputed_is_the_full_prefill(engine: SemShareEngine, matching: str) -> None:
    policy = ReusePolicy(matching=matching, recompute_ratio=1.0, min_similarity=0)
    prefilled = engine.prefill(TARGET, reuse=policy, store=False)
    expected = full_logits(engine.model, np.array(engine.token_ids(TARGET)), 1)[0]
    torch.testing.assert_close(prefilled.logits, expected, atol=1e-4, rtol=0)


@every_matcher
@pytest.mark.parametrize("count", [1, 2])
def test_no_more_references_serve_than_allowed(engine: SemShareEngine, matching: str, count: int) -> None:
    policy = ReusePolicy(matching=matching, recompute_ratio=0.3, min_similarity=0, max_references=count)
    report = engine.prefill(TARGET, reuse=policy, store=False).report
    assert report.prefix_tokens + report.moved_tokens + report.fuzzy_tokens + report.new_tokens == report.prompt_tokens
    assert len(report.reference_ids) <= count
