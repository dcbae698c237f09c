"""What a caller may give as an item, and the bytes that travel for it.

An image is the encoded file (JPEG or PNG), a path to one, or any object with Pillow's `save(file, format)`; a text is a
string, or a tuple of two for tasks over pairs. Sizes are bounded here, before anything is sent.
"""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Protocol, TypeAlias, runtime_checkable

from elastriton.client.errors import InvalidInputError

MAX_IMAGE_BYTES = 32 << 20
MAX_TEXT_BYTES = 1 << 20


@runtime_checkable
class Savable(Protocol):
    """An image object that can write itself to a file, as `PIL.Image.Image` does."""

    def save(self, fp: IO[bytes], format: str) -> None: ...


Image: TypeAlias = bytes | bytearray | memoryview | str | os.PathLike[str] | Savable
Text: TypeAlias = str | tuple[str, str]


def one_kind(images: Sequence[Image] | None, texts: Sequence[Text] | None) -> tuple[str, Sequence[object]]:
    """The input tensor's name and the items, of which exactly one list must be given; raises InvalidInputError."""
    if (images is None) == (texts is None):
        raise InvalidInputError("give either images=[...] or texts=[...], and not both")
    name, items = ("images", images) if images is not None else ("texts", texts)
    if isinstance(items, str | bytes | os.PathLike) or not isinstance(items, Sequence):
        raise InvalidInputError(f"{name}= takes a list, not {type(items).__name__}; write {name}=[item]")
    return ("IMAGE" if images is not None else "TEXT"), items


async def encode(tensor: str, item: object) -> tuple[bytes, ...]:
    """The values of one request's tensor: one image, one text or the two texts of a pair. Raises InvalidInputError.

    Files are read and image objects saved on a thread, so that the event loop stays free.
    """
    if tensor == "TEXT":
        return text_bytes(item)
    if isinstance(item, bytes):
        return (image_bytes(item),)
    return (await asyncio.to_thread(image_bytes, item),)


def text_bytes(text: object) -> tuple[bytes, ...]:
    """A string as one UTF-8 value, a pair as two; raises InvalidInputError for other types and oversize texts."""
    parts = text if isinstance(text, tuple) else (text,)
    if len(parts) not in (1, 2) or not all(isinstance(part, str) for part in parts):
        raise InvalidInputError(f"a text is a string or a tuple of two strings, not {_shown(text)}")
    try:
        values = tuple(part.encode() for part in parts)
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"the text is not valid Unicode: {error}") from None
    for value in values:
        _check_size("text", len(value), MAX_TEXT_BYTES)
    return values


def image_bytes(image: object) -> bytes:
    """The encoded image, as it is or as PNG from an object with `save`.

    Raises InvalidInputError where a file cannot be read, an image is empty or larger than MAX_IMAGE_BYTES, or the
    object is none of the kinds above.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        data, name = bytes(image), "image"
    elif isinstance(image, str | os.PathLike):
        data, name = _read(Path(image)), f"image {_shown(os.fspath(image))}"
    elif isinstance(image, Savable):
        data, name = _save(image), "image"
    else:
        raise InvalidInputError(f"an image is bytes, a path or an object with save(), not {_shown(image)}")
    if not data:
        raise InvalidInputError(f"the {name} is empty")
    _check_size(name, len(data), MAX_IMAGE_BYTES)
    return data


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_IMAGE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidInputError(f"cannot read the image {_shown(str(path))}: {reason}") from error


def _save(image: Savable) -> bytes:
    buffer = io.BytesIO()
    try:
        image.save(buffer, format="PNG")
    except Exception as error:
        raise InvalidInputError(f"cannot encode the image as PNG: {error}") from error
    return buffer.getvalue()


def _check_size(name: str, size: int, maximum: int) -> None:
    if size > maximum:
        raise InvalidInputError(f"the {name} is larger than {maximum >> 20} MiB; send a smaller one")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
