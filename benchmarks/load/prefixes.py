"""How much of each prompt a perfect prefix cache could have known. Knows token ids in the order they were sent; not servers."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np

TOKEN_BYTES = 4


class Possible:
    """Prompts and answers so far. The neighbours in sorted order have the longest prefix in common with a new one."""

    def __init__(self) -> None:
        self._known: list[bytes] = []
        self.prompt_tokens = 0
        self.hit_tokens = 0

    def submit(self, prompt: Sequence[int]) -> int:
        """Counts a prompt that is sent now; how many of its tokens an earlier one had in front, at most all but the last."""
        key = as_key(prompt)
        place = bisect_left(self._known, key)
        found = max((common_tokens(key, other) for other in self._known[max(0, place - 1) : place + 1]), default=0)
        possible = min(found, len(prompt) - 1)
        self._known.insert(place, key)
        self.prompt_tokens += len(prompt)
        self.hit_tokens += possible
        return possible

    def generated(self, prompt: Sequence[int], generated: Sequence[int]) -> None:
        """The whole sequence is known from here on: its last token was never fed."""
        insort(self._known, as_key([*prompt, *generated[:-1]]))


def as_key(tokens: Sequence[int]) -> bytes:
    """Token ids as bytes that sort like them."""
    return np.asarray(tokens, dtype=f">u{TOKEN_BYTES}").tobytes()


def common_tokens(one: bytes, other: bytes) -> int:
    """Tokens that two keys have in common at their front."""
    length = min(len(one), len(other))
    same = np.frombuffer(one[:length], np.uint32) == np.frombuffer(other[:length], np.uint32)
    return int(same.argmin()) if not same.all() else len(same)
