"""A text and a question about it as one prompt, in the wording that a small model answers briefly."""

from __future__ import annotations

INSTRUCTION = "Answer the question from the text. Give only the answer, in a few words."


def ask(text: str, question: str, instruction: str = INSTRUCTION) -> str:
    """Plain text, the question last: a model goes on with the answer in the first line that it writes."""
    return f"{text}\n\n{instruction}\nQuestion: {question}\nAnswer:"
