"""Which words of a text the large model need not read: attention-based word pruning (Tabi, EuroSys'23).

The paper's rule is not public; this is the literature's: a word matters as much as the attention that it receives
(SpAtten, arXiv 2012.09852; LTP, arXiv 2107.00910), relative to the mean of its text.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from elastriton.core.confidence import FloatArray


@dataclass(frozen=True, slots=True)
class Pruning:
    """Words below `scale` x the mean importance go, or, with a `keep_rate`, all but that share of the words.

    At least `floor` words of each text stay, and all those in `never` (in lower case: negations, names), with or
    without the punctuation around them.
    """

    scale: float = 0.0
    keep_rate: float | None = None
    floor: int = 4
    never: tuple[str, ...] = ()


def kept(importance: FloatArray, words: Sequence[str], rule: Pruning) -> NDArray[np.bool_]:
    """Which words of one text stay, by their importance [words]."""
    n = len(words)
    order = np.argsort(-importance, kind="stable")
    if rule.keep_rate is not None:
        stay = np.zeros(n, bool)
        stay[order[: int(np.ceil(rule.keep_rate * n - 1e-9))]] = True
    else:
        stay = np.asarray(importance >= rule.scale * importance.mean()) if n else np.zeros(0, bool)
    stay[order[: rule.floor]] = True
    return np.asarray(stay | np.array([_is_one_of(rule.never, word.lower()) for word in words], dtype=bool))


def _is_one_of(words: Sequence[str], word: str) -> bool:
    return word in words or word.strip(string.punctuation) in words
