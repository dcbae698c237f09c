"""The kinds of images and texts, and their limits."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import pytest

from elastriton.client import InvalidInputError
from elastriton.client.inputs import MAX_IMAGE_BYTES, MAX_TEXT_BYTES, image_bytes, text_bytes


class Picture:
    def __init__(self, data: bytes = b"png", error: Exception | None = None) -> None:
        self.data, self.error = data, error

    def save(self, fp: IO[bytes], format: str) -> None:
        if self.error is not None:
            raise self.error
        assert format == "PNG"
        fp.write(self.data)


def test_an_image_is_bytes_a_path_or_an_object_that_saves_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"jpeg\0")
    images = [b"jpeg\0", bytearray(b"jpeg\0"), memoryview(b"jpeg\0"), path, str(path), Picture(b"jpeg\0")]
    assert {image_bytes(image) for image in images} == {b"jpeg\0"}


def test_a_pillow_image_is_one_of_them() -> None:
    pillow = pytest.importorskip("PIL.Image")
    assert image_bytes(pillow.new("RGB", (2, 2))).startswith(b"\x89PNG")


def test_what_is_no_image_says_why(tmp_path: Path) -> None:
    cases: list[tuple[object, str]] = [
        (b"", "the image is empty"),
        (Picture(b""), "the image is empty"),
        (tmp_path / "none.jpg", "none.jpg': No such file"),
        (str(tmp_path), "Is a directory"),
        ("a\0b", "null"),
        (3, "not 3"),
        (Picture(error=OSError("cannot write mode CMYK")), "as PNG: cannot write mode CMYK"),
    ]
    for image, words in cases:
        with pytest.raises(InvalidInputError, match=words):
            image_bytes(image)


def test_an_image_of_the_limit_passes_and_one_byte_more_does_not(tmp_path: Path) -> None:
    assert len(image_bytes(bytes(MAX_IMAGE_BYTES))) == MAX_IMAGE_BYTES
    path = tmp_path / "large.png"
    path.write_bytes(bytes(MAX_IMAGE_BYTES + 1))
    for image, name in [(bytes(MAX_IMAGE_BYTES + 1), "image"), (path, "large.png")]:
        with pytest.raises(InvalidInputError, match=f"{name}.* is larger than 32 MiB"):
            image_bytes(image)


def test_a_text_is_a_string_or_a_pair() -> None:
    assert text_bytes("ä") == (b"\xc3\xa4",)
    assert text_bytes(("a", "")) == (b"a", b"")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"bytes", "not b'bytes'"),
        (("a", "b", "c"), "tuple of two strings"),
        (("a", 1), "tuple of two strings"),
        ((), "tuple of two strings"),
        ("\ud800", "not valid Unicode"),
        ("x" * (MAX_TEXT_BYTES + 1), "the text is larger than 1 MiB"),
    ],
)
def test_what_is_no_text_says_why(text: object, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        text_bytes(text)
