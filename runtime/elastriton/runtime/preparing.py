"""What a request's bytes become before a model reads them: tokens or pixels, one sample at a time, then a batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from elastriton.core.errors import InvalidInput
from elastriton.core.profile import ImageSpec, TextSpec
from elastriton.runtime.executor import Arrays
from elastriton.runtime.images import decode_image
from elastriton.runtime.texts import TextTokenizer, pad

Row = tuple[bytes | str, ...]
"""One sample as it came: a text of one or two parts, or one image."""


class Preparation(Protocol):
    """How one model's inputs are made."""

    def read(self, row: Row) -> Any:
        """One prepared sample. Raises InvalidInput for what no model can read, and its kind TooLong."""
        ...

    def batch(self, samples: Sequence[Any]) -> Arrays:
        """The inputs of the model for some samples."""
        ...


class Texts:
    """Texts, by a model's own tokenizer."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self.tokenizer = tokenizer

    def read(self, row: Row) -> Any:
        return self.tokenizer.encode(row)

    def batch(self, samples: Sequence[Any]) -> Arrays:
        return pad(samples)


class Images:
    """Images, resized and cropped for one model."""

    def __init__(self, spec: ImageSpec) -> None:
        self._spec = spec

    def read(self, row: Row) -> Any:
        (image,) = row
        if not isinstance(image, bytes):
            raise InvalidInput("IMAGE is a string; send the bytes of a JPEG or PNG file")
        return decode_image(image, self._spec)

    def batch(self, samples: Sequence[Any]) -> Arrays:
        return {"pixels": np.stack(samples)}


def preparation(task: str, text: TextSpec | None, image: ImageSpec | None, tokenizer: Path, inputs: int) -> Preparation:
    """The preparation for a model that reads images, or else texts by the tokenizer in a folder."""
    if image is not None:
        return Images(image)
    if text is None:
        raise InvalidInput(f"task {task}: the model reads neither texts nor images; generate the repository again")
    return Texts(TextTokenizer(tokenizer, text.max_length, inputs))
