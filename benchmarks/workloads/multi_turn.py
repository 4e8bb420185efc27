"""Conversations over a document: every turn's prompt begins with all the turns before it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.workloads.passages import CountTokens, pack_passages

Message = dict[str, str]
"""A chat message: `role` and `content`."""

SYSTEM = "You answer questions about a text. Be brief."
QUESTIONS = (
    "What is this passage about?",
    "Which single point in it matters most, and why?",
    "Say the first sentence again in simpler words.",
    "Who or what is named in it?",
    "What would a careful reader ask next?",
    "Summarise our conversation in one sentence.",
    "Does the last part agree with the first?",
    "Give the passage a title.",
)


@dataclass(frozen=True)
class Conversation:
    id: str
    system: str
    user_turns: tuple[str, ...]


@dataclass(frozen=True)
class Replay:
    """`prompts[i]` is what the model was given for turn i, `answers[i]` what it said."""

    prompts: tuple[tuple[Message, ...], ...]
    answers: tuple[str, ...]


def conversations(
    texts: Sequence[str],
    count_tokens: CountTokens,
    *,
    count: int = 50,
    turns: int = 3,
    passage_tokens: tuple[int, int] = (120, 220),
    seed: int = 0,
) -> list[Conversation]:
    """`count` conversations of `turns` questions, each about a passage of its own that stands in the first turn."""
    rng = random.Random(f"multi-turn-{seed}")
    found = pack_passages(texts, count_tokens, *passage_tokens, rng)
    made = []
    for number, passage in zip(range(count), found, strict=False):
        first, *later = rng.sample(QUESTIONS, turns)
        made.append(Conversation(f"multi-turn-{seed}-{number}", SYSTEM, (f"{passage}\n\n{first}", *later)))
    if len(made) < count:
        raise ValueError(f"the source texts give {len(made)} passages of {passage_tokens} tokens, {count} are needed")
    return made


def replay(conversation: Conversation, answer: Callable[[list[Message]], str]) -> Replay:
    """Hold the conversation: `answer` gets the messages so far and says the assistant's next one."""
    messages: list[Message] = [{"role": "system", "content": conversation.system}]
    prompts, answers = [], []
    for turn in conversation.user_turns:
        messages.append({"role": "user", "content": turn})
        prompts.append(tuple(dict(message) for message in messages))
        answers.append(answer([dict(message) for message in messages]))
        messages.append({"role": "assistant", "content": answers[-1]})
    return Replay(tuple(prompts), tuple(answers))
