"""A text and a question about it as one prompt, in the wording that a small model answers briefly."""

from __future__ import annotations

INSTRUCTION = "Answer the question from the text. Give only the answer, in a few words."


def ask(text: str, question: str, cue: str = "") -> str:
    """Plain text, the question last: a model goes on with the answer in the first line that it writes.

    ``cue`` begins the answer for it.
    """
    return f"{text}\n\n{INSTRUCTION}\n{question_and_answer(question, cue)}"


def question_and_answer(question: str, cue: str) -> str:
    """The end of a prompt, where the answer is about to come."""
    return f"Question: {question}\nAnswer: {cue}".rstrip()
