"""Shorten a text to the words that a small model paid attention to, for any other model and tokenizer to read.

tokens of the small model ─ attention received ─► words, by offsets ─ core/pruning ─► the text of the words that stay
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from elastriton.core.confidence import FloatArray
from elastriton.core.pruning import Pruning, kept
from elastriton.runtime.texts import Span

_WORD = re.compile(r"(?:\S|[\x1c-\x1f\x85])+")  # to tokenizers these are control characters, no blanks


@dataclass(frozen=True, slots=True)
class Shortened:
    """The parts of a text after pruning, and how many words there were and are."""

    texts: tuple[str, ...]
    words: int
    kept: int


def shorten(texts: Sequence[str], spans: Sequence[Span | None], attention: FloatArray, rule: Pruning) -> Shortened:
    """Prune each part of a sample by itself.

    `attention` [tokens] is what each token of the small model received, `spans` [tokens] where it stands in the texts.
    The importance of a word is the sum over its tokens, so that long words survive. White space between the words that
    stay becomes one blank; a part that loses none stays as it came.
    """
    parts, words, stays = [], 0, 0
    for part, text in enumerate(texts):
        places = [found.span() for found in _WORD.finditer(text)]
        mine = [
            (span[1], span[2], float(a)) for span, a in zip(spans, attention, strict=True) if span and span[0] == part
        ]
        stay = kept(_importance(places, mine), [text[start:stop] for start, stop in places], rule)
        short = " ".join(text[start:stop] for (start, stop), keep in zip(places, stay, strict=True) if keep)
        parts.append(text if stay.all() else short)
        words, stays = words + len(places), stays + int(stay.sum())
    return Shortened(tuple(parts), words, stays)


def _importance(places: Sequence[tuple[int, int]], tokens: Sequence[tuple[int, int, float]]) -> FloatArray:
    """The sum of each word's tokens; both come in the order of the text."""
    importance = np.zeros(len(places))
    word = 0
    for start, stop, attention in tokens:
        while word < len(places) and places[word][1] <= start:
            word += 1
        if word < len(places) and places[word][0] < stop:
            importance[word] += attention
    return importance
