"""RAG over a growing history: every chunk of the target was last seen in a different earlier prompt."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.case import Case
from benchmarks.workloads.multi_turn import Message
from benchmarks.workloads.passages import CountTokens, pack_passages

SYSTEM = "You answer questions about the passages that the user quotes. Be brief, and rely on the passages alone."
QUESTIONS = (
    "Who is named in the passages, and what does each of them do?",
    "What do the passages have in common?",
    "Which of the passages speaks of a journey, and where does it lead?",
    "In one paragraph, tell what the passages are about.",
    "What is promised in the passages, and to whom?",
    "Which passage tells of a dispute, and how does it end?",
    "What would a reader learn from the passages about the time they tell of?",
    "Which places are named in the passages?",
    "What do the speakers in the passages ask for?",
    "Give each of the passages a title.",
)
_SEPARATOR = "\n\n"


@dataclass(frozen=True)
class RagChunks:
    """``chunks[i]`` stands somewhere in the ``i``-th earlier prompt; the target holds them in the order ``order``.

    Of the earlier prompts those behind the first ``len(chunks)`` hold none of them.
    """

    id: str
    chunks: tuple[str, ...]
    order: tuple[int, ...]
    earlier_prompts: tuple[tuple[Message, ...], ...]
    target_prompt: tuple[Message, ...]


def rag_chunks(
    texts: Sequence[str],
    count_tokens: CountTokens,
    *,
    seeds: Sequence[int],
    chunks: int = 8,
    chunk_tokens: tuple[int, int] = (285, 315),
    others: tuple[int, int] = (2, 3),
    bystanders: int = 4,
) -> list[RagChunks]:
    """One target a seed, of ``chunks`` chunks.

    Each earlier prompt has ``others`` further passages around its chunk, the same system message and another question;
    ``bystanders`` more of them share nothing with the target but the system message.
    """
    return [_one(texts, count_tokens, seed, chunks, chunk_tokens, others, bystanders) for seed in seeds]


def rag_chunk_cases(made: Iterable[RagChunks]) -> list[Case]:
    """The targets as cases whose references are all the earlier prompts; nothing is looked up."""
    return [Case(each.id, "many sources", each.earlier_prompts, each.target_prompt) for each in made]


def _one(
    texts: Sequence[str],
    count_tokens: CountTokens,
    seed: int,
    chunks: int,
    chunk_tokens: tuple[int, int],
    others: tuple[int, int],
    bystanders: int,
) -> RagChunks:
    rng = random.Random(f"rag-chunks-{seed}")
    # one passage a text, so that no two passages of a prompt continue one another
    passages = (
        passage
        for text in rng.sample(texts, len(texts))
        for passage in [next(pack_passages([text], count_tokens, *chunk_tokens, rng), None)]
        if passage is not None
    )
    asked, *questions = rng.sample(QUESTIONS, len(QUESTIONS))

    def take(count: int) -> list[str]:
        taken = [passage for _, passage in zip(range(count), passages, strict=False)]
        if len(taken) < count:
            raise ValueError(f"the source texts have too few passages of {chunk_tokens} tokens")
        return taken

    held = take(chunks)
    earlier = []
    for number in range(chunks + bystanders):
        context = take(rng.randint(*others))
        if number < chunks:
            context.insert(rng.randint(0, len(context)), held[number])
        earlier.append(_prompt(context, rng.choice(questions)))
    order = rng.sample(range(chunks), chunks)
    return RagChunks(
        f"rag-chunks-{seed}",
        tuple(held),
        tuple(order),
        tuple(earlier),
        _prompt([held[number] for number in order], asked),
    )


def _prompt(passages: Sequence[str], question: str) -> tuple[Message, ...]:
    content = _SEPARATOR.join([*passages, question])
    return ({"role": "system", "content": SYSTEM}, {"role": "user", "content": content})
