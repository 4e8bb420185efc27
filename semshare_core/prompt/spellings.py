"""Where a text spells a control token, or part of one that the template may complete."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection
from itertools import pairwise


class Spellings:
    """Finds some ``tokens`` in texts: whole ones, and the beginning or the end of one at the text's border.

    Args:
        tokens: for example ``<|im_end|>``. The text ``...<|im_`` counts too, for more text may follow it.
        normalize: what the tokenizer makes of a text before it looks for them; None: it leaves it as it is.
    """

    def __init__(self, tokens: Collection[str], normalize: Callable[[str], str] | None) -> None:
        rests: defaultdict[str, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for token in tokens:
            rests[token[0]][token[1:2]].append(re.escape(token[2:]))
        starts = []  # by two characters, for a regular expression tries thousands of tokens one after the other
        for first, behind in rests.items():
            tried = "|".join(f"{re.escape(second)}(?:{'|'.join(ends)})" for second, ends in behind.items())
            starts.append(f"{re.escape(first)}(?={tried})")
        self._start = re.compile("|".join(starts) or "(?!)")
        self._heads = {token[:size] for token in tokens for size in range(1, len(token))}
        self._tails = {token[size:] for token in tokens for size in range(1, len(token))}
        self._longest = max(map(len, tokens), default=0)
        self._normalize = normalize

    def marked(self, text: str, mark: str) -> str:
        """``text`` with a mark behind the first character of each."""
        places = {match.end() for match in self._start.finditer(text)}
        bare = text.rstrip()
        sizes = range(1, min(self._longest, len(bare)) + 1)
        places |= {len(bare) - size + 1 for size in sizes if bare[-size:] in self._heads}
        bare = text.lstrip()
        if any(bare[:size] in self._tails for size in sizes):
            places.add(len(text) - len(bare) + 1)
        if self._normalize is not None:
            normal = self._normalize(text)
            if len(self._start.findall(normal)) > len(self._start.findall(text)):  # spelled in other characters
                places |= set(range(1, len(text) + 1))
        cuts = [0, *sorted(places), len(text)]
        return mark.join(text[a:b] for a, b in pairwise(cuts)) if places else text
