"""The rows of the model's last answer are computed: small models copy it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semshare_core import ReusePolicy
from semshare_core.budget.needs import Needs
from semshare_core.match.plan import ReusePlan, Source
from semshare_core.prompt.encode import encode
from semshare_core.prompt.last_answer import CUE_TOKENS, MOST_TOKENS, last_answer
from semshare_core.select import selection_for
from tiny_models import tiny_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

TOKENIZER = tiny_tokenizer()


def answer(prompt: object) -> str:
    found = encode(prompt, TOKENIZER, 259, 4096)  # type: ignore[arg-type]
    return TOKENIZER.decode(found.ids[found.last_answer])


@given(st.lists(st.integers(0, 2), max_size=40), st.integers(0, 40))
def test_it_begins_behind_the_last_earlier_place_of_the_prompts_end(ids: list[int], question: int) -> None:
    n = len(ids)
    latest = min(question, n - CUE_TOKENS)
    places = [at for at in range(CUE_TOKENS, latest + 1) if ids[at - CUE_TOKENS : at] == ids[n - CUE_TOKENS :]]
    found = last_answer(np.array(ids, np.int64), question)
    assert list(found) == (list(range(places[-1], min(places[-1] + MOST_TOKENS, n))) if places else [])


def test_of_a_long_answer_the_begin_is_meant() -> None:
    assert answer("Human: One?\nAI:" + "x" * 100 + "\nHuman: Two?\nAI:") == "x" * MOST_TOKENS


def test_of_several_answers_the_last_is_meant() -> None:
    said = [("user", "One?"), ("assistant", "First."), ("user", "Two?"), ("assistant", "Second."), ("user", "Three?")]
    assert answer([{"role": role, "content": text} for role, text in said]).startswith("Second.")


def test_a_template_that_begins_the_next_answer_otherwise_hides_no_earlier_one(monkeypatch: pytest.MonkeyPatch) -> None:
    template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant><think></think>{% endif %}"
    )
    monkeypatch.setattr(TOKENIZER, "chat_template", template)
    said = [("user", "One?"), ("assistant", "First."), ("user", "Two?")]
    assert answer([{"role": role, "content": text} for role, text in said]).startswith("<assistant>First.")


def test_a_text_that_is_one_long_paragraph_has_one_before_what_is_computed_of_its_question() -> None:
    second = "Second, " + "which is long, " * 30
    text = f"Begin.\n\nHuman: One?\nAI: First.\nHuman: Two?\nAI: {second}\nHuman: Three?\nAI:"
    assert encode(text, TOKENIZER, 259, 4096).question == len("Begin.\n\n")
    assert answer(text).startswith(" Second, ")


def test_a_template_with_a_short_cue_does_not_find_the_answer_to_a_repeated_question(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, said = "{% if m.role == 'user' %}\n{{ m.content }}#", "{% else %}{{ m.content }}{% endif %}"
    template = "{% for m in messages %}" + asked + said + "{% endfor %}"
    monkeypatch.setattr(TOKENIZER, "chat_template", template)
    chat = [("user", "Go on."), ("assistant", "Old."), ("user", "Why?"), ("assistant", "Last."), ("user", "Go on.")]
    assert answer([{"role": role, "content": text} for role, text in chat]).startswith("Last.")


@pytest.mark.parametrize("prompt", ["One.\n\nTwo?", [{"role": "user", "content": "One?"}], "ab"])
def test_a_prompt_without_an_earlier_answer_has_none(prompt: object) -> None:
    assert answer(prompt) == ""


def test_its_moved_rows_are_computed_and_its_prefix_rows_are_not() -> None:
    plan = ReusePlan.empty(200)
    plan.serve(0, 50, Source.PREFIX, 0, 0)
    plan.serve(50, 190, Source.MOVED, 0, 60)
    ours, papers = selection_for(ReusePolicy()), selection_for(ReusePolicy(selection="paper"))
    assert Needs.of(plan, ours, 190, range(30, 94)).must.nonzero()[0].tolist() == [*range(50, 94), *range(190, 200)]
    assert Needs.of(plan, papers, 190, range(30, 94)).must.nonzero()[0].tolist() == [*range(190, 200)]
