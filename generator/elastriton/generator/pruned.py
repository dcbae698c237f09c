"""Texts without the words that a small model paid little attention to, and what the large model says of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elastriton.core.pruning import Pruning
from elastriton.generator.cached import Answers
from elastriton.generator.measure import all_logits
from elastriton.runtime.executor import ElasticExecutor, Floats
from elastriton.runtime.preparing import Preparation, Row, Texts
from elastriton.runtime.small import Outputs
from elastriton.runtime.texts import TextTokenizer
from elastriton.runtime.words import shorten


def prune(
    rows: Sequence[Row], outputs: Sequence[Outputs | None], tokenizer: TextTokenizer, rule: Pruning
) -> tuple[list[Row], Floats]:
    """The texts with fewer words, and the share of the words [n] that went.

    `outputs` and `tokenizer` are the small model's; what it could not read stays whole.
    """
    short, cut = list(rows), np.zeros(len(rows), np.float32)
    for i, output in enumerate(outputs):
        if output is None or output.attention is None:
            continue
        texts = [str(part) for part in rows[i]]
        found = shorten(texts, tokenizer.spans(texts), output.attention, rule)
        short[i], cut[i] = found.texts, 1.0 - found.kept / max(1, found.words)
    return short, cut


def large_answers(executor: ElasticExecutor, task: str, reader: Preparation, rows: Sequence[Row]) -> Answers:
    """The large model's answers at its plain level."""
    readings = [reader.read(row) for row in rows]
    tokens = token_counts(readings, reader)
    order = np.argsort(tokens, kind="stable").tolist()
    logits = all_logits(executor, task, 0, order, lambda indices: reader.batch([readings[i] for i in indices]))
    return Answers(logits, tokens)


def token_counts(readings: Sequence[Any], reader: Preparation) -> NDArray[np.int64]:
    """How many tokens each sample has; 0 for images, and for what is too long."""
    texts = isinstance(reader, Texts)
    return np.array([len(one) if texts and one is not None else 0 for one in readings], dtype=np.int64)
