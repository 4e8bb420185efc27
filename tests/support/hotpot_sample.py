"""A made-up HotpotQA file: each question's paragraphs are its own six and four that it shares with its neighbour."""

from __future__ import annotations

import json


def hotpot_file(questions: int) -> bytes:
    """Questions 0 and 1 share four paragraphs, 2 and 3 four others, and so on."""
    return json.dumps(
        [
            {
                "_id": f"id{number}",
                "question": f"Where does the tower of town{number} stand?",
                "answer": f"city{number}",
                "supporting_facts": [["Fact", 0]],
                "context": [
                    [f"Fact {number}", [f"The tower of town{number} stands in city{number}.", " It is old."]],
                    *([f"Own {number} {i}", [f"Nobody knows hill {number} {i}."]] for i in range(5)),
                    *([f"Shared {number // 2} {i}", [f"River {number // 2} {i} is long."]] for i in range(4)),
                ],
            }
            for number in range(questions)
        ]
    ).encode()
