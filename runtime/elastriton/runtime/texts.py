"""Texts to token ids and batches of them, by the tokenizers library alone: no transformers, no torch."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from elastriton.core.errors import InvalidInput
from elastriton.runtime.executor import Arrays
from elastriton.runtime.files import TOKENIZER_FILE

Ids = NDArray[np.int64]
Span = tuple[int, int, int]
BYTES_PER_TOKEN = 64
"""What a text may have at most for each token that its model takes; ordinary English has 5.

Only tokenising tells how many tokens there are, and meanwhile no other thread of the process runs: 8 KiB, the most for
128 tokens, take MiniLM's tokenizer 3 ms, and 21 where they are made to be slow.
"""


class TooLong(InvalidInput):
    """The text may be fit to be read, but has more tokens, or bytes, than this model may take."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """One tokenised text (or pair): token ids and segment ids, each [tokens]."""

    ids: Ids
    segments: Ids

    def __len__(self) -> int:
        return len(self.ids)


class TextTokenizer:
    """Turns texts into encodings of at most `max_length` tokens, in time that `max_length` bounds."""

    def __init__(self, folder: Path, max_length: int, inputs: int = 1) -> None:
        """Read the tokenizer in `folder`; `inputs` is 1 for texts and 2 for pairs of texts."""
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.max_length = max_length
        self.max_bytes = BYTES_PER_TOKEN * max_length
        self.inputs = inputs

    def encode(self, texts: Sequence[bytes | str]) -> Encoding:
        """Tokenise one sample. Raises InvalidInput where it is empty, not UTF-8, or has too few parts; else TooLong.

        A sample of more than `max_bytes`, in all its parts together, is TooLong unread.
        """
        encoding = self._encode(texts)
        if len(encoding.ids) > self.max_length:
            raise TooLong(
                f"TEXT is over-long: it has {len(encoding.ids)} tokens, at most {self.max_length} are allowed"
            )
        return Encoding(np.array(encoding.ids, np.int64), np.array(encoding.type_ids, np.int64))

    def spans(self, texts: Sequence[bytes | str]) -> list[Span | None]:
        """Where each token of `encode` comes from: its part, and its characters there; None for special tokens."""
        encoding = self._encode(texts)
        places = zip(encoding.sequence_ids, encoding.offsets, strict=True)
        return [None if part is None else (part, start, stop) for part, (start, stop) in places]

    def _encode(self, texts: Sequence[bytes | str]) -> Any:
        if len(texts) != self.inputs:
            raise InvalidInput(f"TEXT has {len(texts)} parts; this task takes {self.inputs}")
        size = sum(map(_bytes, texts))
        if size > self.max_bytes:
            bounds = f"at most {self.max_bytes} are allowed for {self.max_length} tokens"
            raise TooLong(f"TEXT is over-long: it has {size} bytes, {bounds}")
        first, *second = map(decoded, texts)
        return self._tokenizer.encode(first, second[0] if second else None)


def pad(encodings: Sequence[Encoding]) -> Arrays:
    """One batch: input_ids, attention_mask and token_type_ids, each int64 [batch, longest]."""
    longest = max(len(encoding) for encoding in encodings)
    ids, mask, segments = (np.zeros((len(encodings), longest), np.int64) for _ in range(3))
    for row, encoding in enumerate(encodings):
        n = len(encoding)
        ids[row, :n], mask[row, :n], segments[row, :n] = encoding.ids, 1, encoding.segments
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments}


def unpad(input_ids: Ids, attention_mask: Ids, token_type_ids: Ids) -> list[Encoding]:
    """The encodings in a batch, without their padding."""
    lengths = attention_mask.sum(axis=1)
    return [Encoding(input_ids[i, :n], token_type_ids[i, :n]) for i, n in enumerate(lengths)]


def _bytes(text: bytes | str) -> int:
    try:
        return len(text.encode() if isinstance(text, str) else text)
    except UnicodeEncodeError as error:  # a string may hold one half of a pair of surrogates
        raise InvalidInput(f"TEXT is not UTF-8: {error}") from None


def decoded(text: bytes | str) -> str:
    """One text as a string. Raises InvalidInput where it is empty or not UTF-8."""
    try:
        string = text.decode("utf-8") if isinstance(text, bytes) else text
    except UnicodeDecodeError as error:
        raise InvalidInput(f"TEXT is not UTF-8: {error}") from None
    if not string.strip():
        raise InvalidInput(f"TEXT is empty: {reprlib.repr(string)}; send at least one word")
    return string
