"""How the gain grows with length: shuffled passages with a twentieth of the words changed, from 0.5k to 8k tokens."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.case import Case
from benchmarks.workloads.passages import CountTokens
from benchmarks.workloads.shuffled_edits import shuffled_edit_cases, shuffled_edits

LENGTHS = (500, 1000, 2000, 3000, 5000, 8000)


def length_sweep(
    texts: Sequence[str],
    count_tokens: CountTokens,
    *,
    lengths: Sequence[int] = LENGTHS,
    count: int = 3,
    edit_share: float = 0.05,
    passage_tokens: tuple[int, int] = (110, 140),
    seed: int = 0,
) -> list[Case]:
    """``count`` cases of each length in tokens, which is their setting; see :func:`shuffled_edits`."""
    return [
        case
        for tokens in lengths
        for case in shuffled_edit_cases(
            shuffled_edits(
                texts,
                count_tokens,
                seeds=range(seed * count, (seed + 1) * count),
                tokens=tokens,
                passage_tokens=passage_tokens,
                edit_share=edit_share,
            ),
            workload="length sweep",
            setting=str(tokens),
        )
    ]
