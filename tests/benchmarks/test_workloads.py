"""The workloads on made-up texts."""

from __future__ import annotations

import random

import pytest

from benchmarks.corpora import Row
from benchmarks.workloads.codes import FACTS, answered_code, code_lookups
from benchmarks.workloads.multi_turn import Message, conversations, replay
from benchmarks.workloads.paraphrase import TAIL, paraphrases
from benchmarks.workloads.passages import cut_to_tokens, gather_tokens, pack_passages, word_count
from benchmarks.workloads.shared_prefix import shared_prefixes
from benchmarks.workloads.shuffled_edits import replace_words, shuffled_edits
from benchmarks.workloads.unrelated import unrelated, word_runs


def _texts(count: int, lines: int = 30, syllables: str = "ka lo mi ne ru sa ti vo") -> list[str]:
    """Texts of made-up words, lines of 8 to 20 words each."""
    rng = random.Random(f"{count} {lines} {syllables}")
    parts = syllables.split()

    def word() -> str:
        return "".join(rng.choice(parts) for _ in range(rng.randint(1, 4)))

    def line() -> str:
        return " ".join(word() for _ in range(rng.randint(8, 20))).capitalize() + "."

    return ["\n".join(line() for _ in range(lines)) for _ in range(count)]


TEXTS = _texts(60)


# passages


def test_passages_keep_their_size_and_never_repeat_a_line() -> None:
    cut = list(pack_passages(TEXTS, word_count, 40, 70, random.Random(1)))
    lines = [line for passage in cut for line in passage.split("\n")]
    assert len(cut) > 100
    assert all(40 <= word_count(passage) <= 70 for passage in cut)
    assert len(lines) == len(set(lines))


@pytest.mark.parametrize("tokens", [0, 1, 7, 10**6])
def test_cut_to_tokens_is_the_longest_fitting_beginning(tokens: int) -> None:
    text = TEXTS[0]
    cut = cut_to_tokens(text, tokens, word_count)
    assert text.startswith(cut)
    assert word_count(cut) == min(tokens, word_count(text))


def test_gathering_more_than_there_is_is_refused() -> None:
    with pytest.raises(ValueError, match="are needed"):
        gather_tokens(TEXTS[:2], 10**6, word_count, random.Random(0))


# shuffled edits


def test_edits_are_five_percent_of_the_words() -> None:
    for pair in shuffled_edits(TEXTS, word_count, tokens=4600, seeds=range(3)):
        changed = words = 0
        for position, target in enumerate(pair.target_passages):
            source = pair.reference_passages[pair.order[position]].lower().split()
            assert len(source) == len(target.split())
            words += len(source)
            changed += sum(a != b for a, b in zip(source, target.lower().split(), strict=True))
        assert 0.04 <= changed / words <= 0.06
        assert changed == pair.edited_words
        assert words == pair.words


def test_shuffled_edits_have_the_size_asked_for_and_another_order() -> None:
    for pair in shuffled_edits(TEXTS, word_count, tokens=4600):
        assert abs(word_count(pair.reference_prompt) - 4600) < 150
        assert 30 <= len(pair.reference_passages) <= 42
        assert len(set(pair.reference_passages)) == len(pair.reference_passages)
        assert sorted(pair.order) == list(range(len(pair.order))) != list(pair.order)
        assert pair.reference_prompt.endswith(pair.tail)
        assert pair.target_prompt.endswith(pair.tail)


def test_shuffled_edits_are_the_same_for_the_same_seed_alone() -> None:
    first, again, other = (shuffled_edits(TEXTS, word_count, tokens=1000, seeds=[seed])[0] for seed in (1, 1, 2))
    assert first == again
    assert first.target_prompt != other.target_prompt


def test_replaced_words_come_from_the_text_and_keep_their_capital() -> None:
    passages = ["One two three four. Five six seven eight.", "Nine ten eleven twelve."]
    edited, changed, words = replace_words(passages, 0.5, random.Random(0))
    stock = {word.strip(".").lower() for passage in passages for word in passage.split()}
    assert (changed, words) == (6, 12)
    assert {word.strip(".").lower() for passage in edited for word in passage.split()} <= stock
    assert all(passage[0].isupper() and passage.endswith(".") for passage in edited)


def test_too_little_text_for_shuffled_edits_is_refused() -> None:
    with pytest.raises(ValueError, match="short of"):
        shuffled_edits(TEXTS[:3], word_count, tokens=100_000)


# codes


def test_codes_differ_everywhere_and_never_leak() -> None:
    lookups = code_lookups(TEXTS, word_count, count=40)
    for lookup in lookups:
        old, new = (_codes(prompt) for prompt in (lookup.prompt_reference, lookup.prompt_target))
        assert len(set(old)) == len(set(new)) == FACTS
        assert set(old).isdisjoint(new)
        assert lookup.gold in new
        assert lookup.old in old
        assert old.index(lookup.old) == new.index(lookup.gold)
        assert lookup.gold not in lookup.prompt_reference
        assert lookup.old not in lookup.prompt_target
    assert len({lookup.gold for lookup in lookups}) > 30


def test_only_the_codes_differ_and_the_question_asks_for_the_gold_one() -> None:
    for lookup in code_lookups(TEXTS, word_count, count=20):
        swapped = lookup.prompt_reference
        for old, new in zip(_codes(lookup.prompt_reference), _codes(lookup.prompt_target), strict=True):
            swapped = swapped.replace(old, new)
        assert swapped == lookup.prompt_target
        asked = lookup.prompt_target.rsplit("Answer: The ", 1)[1]
        assert f"{asked} {lookup.gold}." in lookup.prompt_target
        assert f"{asked} {lookup.old}." in lookup.prompt_reference


def test_codes_are_the_same_for_the_same_seed_alone() -> None:
    assert code_lookups(TEXTS, word_count, count=3) == code_lookups(TEXTS, word_count, count=5)[:3]
    assert code_lookups(TEXTS, word_count, count=1)[0] != code_lookups(TEXTS, word_count, count=1, seed=1)[0]


def test_filler_with_digits_is_left_out() -> None:
    with pytest.raises(ValueError, match="without digits"):
        code_lookups(["In the year 1999 nothing of note took place."] * 50, word_count)


@pytest.mark.parametrize(
    ("text", "code"), [(" 4821.", "4821"), ("no code", None), ("12345", None), (" 99 or 1234, 5678", "1234")]
)
def test_the_first_code_in_an_answer_counts(text: str, code: str | None) -> None:
    assert answered_code(text) == code


def _codes(prompt: str) -> list[str]:
    return [code for word in prompt.split() if (code := answered_code(word))]


# conversations


def test_a_replay_grows_by_the_answer_and_the_next_question() -> None:
    talk = conversations(TEXTS, word_count, count=1, turns=3)[0]
    seen: list[list[Message]] = []

    def answer(messages: list[Message]) -> str:
        seen.append(messages)
        return f"answer {len(seen)}"

    held = replay(talk, answer)
    assert held.answers == ("answer 1", "answer 2", "answer 3")
    assert [len(prompt) for prompt in held.prompts] == [2, 4, 6]
    assert [list(prompt) for prompt in held.prompts] == seen
    for earlier, later in zip(held.prompts, held.prompts[1:], strict=False):
        assert later[: len(earlier)] == earlier
    assert [message["role"] for message in held.prompts[-1]] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
        "user",
    ]
    assert tuple(message["content"] for message in held.prompts[-1][1::2]) == talk.user_turns


def test_conversations_are_fifty_and_each_has_a_passage_of_its_own() -> None:
    made = conversations(TEXTS, word_count)
    assert made == conversations(TEXTS, word_count)
    assert made != conversations(TEXTS, word_count, seed=1)
    assert len({talk.user_turns[0] for talk in made}) == len(made) == 50
    assert all(len(set(talk.user_turns)) == 3 for talk in made)


def test_too_little_text_for_the_conversations_is_refused() -> None:
    with pytest.raises(ValueError, match="passages"):
        conversations(TEXTS[:1], word_count)


# shared prefix, miss, paraphrase


def test_shared_prefixes_share_the_prefix_and_nothing_more() -> None:
    made = shared_prefixes(TEXTS, word_count, prefix_tokens=2000, tail_tokens=60, count=3)
    assert len({pair.target_prompt for pair in made}) == 3
    assert len({pair.reference_prompt for pair in made}) == 1
    for pair in made:
        reference, target = (prompt.removeprefix(pair.prefix) for prompt in (pair.reference_prompt, pair.target_prompt))
        assert word_count(pair.prefix) == 2000
        assert word_count(reference) == word_count(target) == 60
        assert reference[0] != target[0]
    assert made == shared_prefixes(TEXTS, word_count, prefix_tokens=2000, tail_tokens=60, count=3)


def test_an_unrelated_prompt_shares_no_run_of_words_with_the_pool() -> None:
    others = [*_texts(40, syllables="ka lo xo zu"), *TEXTS[:5]]  # some lines are the pool's own
    miss = unrelated(TEXTS, others, word_count, tokens=3000)
    known = {run for prompt in miss.pool_prompts for run in word_runs(prompt)}
    assert word_count(miss.prompt) == 3000
    assert known.isdisjoint(run for line in miss.prompt.split("\n") for run in word_runs(line))


def test_paraphrases_end_in_the_same_instruction() -> None:
    made = paraphrases([Row(id="a", reference="old words", target="new words")])
    assert (made[0].reference_prompt, made[0].target_prompt) == ("old words" + TAIL, "new words" + TAIL)
