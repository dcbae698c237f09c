from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import timm.data
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import Compose

from elastriton.core.errors import InvalidInput
from elastriton.core.profile import ImageSpec
from elastriton.runtime.images import decode_image

SIZES = [(32, 32), (35, 35), (48, 40), (40, 48), (35, 80), (31, 29), (8, 8), (1, 1), (200, 33), (33, 200), (101, 37)]


def image(size: int = 32, crop_pct: float = 0.9, interpolation: str = "bicubic") -> ImageSpec:
    return ImageSpec(size, size, int(size / crop_pct), interpolation)


def picture(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    data = np.random.default_rng(sum(size)).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    return Image.fromarray(data).convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def timm_pixels(data: bytes, spec: ImageSpec, crop_pct: float) -> NDArray[np.uint8]:
    """What timm's evaluation transform hands to ToTensor."""
    size = (3, spec.height, spec.width)
    full = timm.data.create_transform(size, interpolation=spec.interpolation, crop_pct=crop_pct)
    geometry = [step for step in full.transforms if type(step).__name__ in ("Resize", "CenterCrop")]
    assert len(geometry) == 2
    return np.asarray(Compose(geometry)(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("target", "crop_pct"), [(32, 0.9), (32, 1.0), (37, 0.875)])
def test_pixels_are_timm_s_for_any_size_and_shape(size: tuple[int, int], target: int, crop_pct: float) -> None:
    spec = image(target, crop_pct)
    data = encoded(picture(size), "JPEG", quality=90)
    pixels = decode_image(data, spec)
    assert pixels.shape == (target, target, 3)
    np.testing.assert_array_equal(pixels, timm_pixels(data, spec, crop_pct))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest", "lanczos"])
def test_pixels_are_timm_s_for_any_interpolation(interpolation: str) -> None:
    spec = image(interpolation=interpolation)
    data = encoded(picture((77, 50)))
    np.testing.assert_array_equal(decode_image(data, spec), timm_pixels(data, spec, 0.9))


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGBA", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("1", "PNG"), ("L", "PNG"), ("L", "JPEG"), ("CMYK", "JPEG")],
)
def test_any_colour_mode_becomes_rgb(mode: str, kind: str) -> None:
    data = encoded(picture((50, 40), mode), kind)
    assert Image.open(io.BytesIO(data)).mode == mode
    np.testing.assert_array_equal(decode_image(data, image()), timm_pixels(data, image(), 0.9))


def test_images_that_differ_only_in_transparency_have_the_same_pixels() -> None:
    opaque, clear = picture((50, 40), "RGBA"), picture((50, 40), "RGBA")
    opaque.putalpha(255)
    clear.putalpha(0)
    np.testing.assert_array_equal(decode_image(encoded(opaque), image()), decode_image(encoded(clear), image()))


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "WEBP"])
def test_other_formats_are_refused(kind: str) -> None:
    with pytest.raises(InvalidInput, match="send a JPEG or PNG"):
        decode_image(encoded(picture((50, 40)), kind), image())


@pytest.mark.parametrize("data", [b"x", b"not an image at all", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\0" * 100])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput, match="IMAGE"):
        decode_image(data, image())


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_truncated_image_is_damaged(kind: str) -> None:
    data = encoded(picture((200, 200)), kind)
    with pytest.raises(InvalidInput, match="IMAGE is damaged"):
        decode_image(data[: len(data) // 2], image())


def test_empty_and_too_large_files_are_refused() -> None:
    with pytest.raises(InvalidInput, match="IMAGE has 0 bytes"):
        decode_image(b"", image())
    data = encoded(picture((50, 40)))
    decode_image(data, image(), max_bytes=len(data))
    with pytest.raises(InvalidInput, match=f"IMAGE has {len(data)} bytes"):
        decode_image(data, image(), max_bytes=len(data) - 1)


def test_too_many_pixels_are_refused_before_they_are_decoded() -> None:
    data = encoded(picture((50, 40)))
    decode_image(data, image(), max_pixels=2000)
    with pytest.raises(InvalidInput, match="50 x 40; at most 1999 pixels"):
        decode_image(data[:60], image(), max_pixels=1999)


def test_a_bomb_is_refused() -> None:
    data = bytearray(encoded(Image.new("1", (8, 8))))
    header = b"IHDR" + struct.pack(">II", 20_000, 20_000) + data[24:29]
    data[12:33] = header + struct.pack(">I", zlib.crc32(header))
    with pytest.raises(InvalidInput, match="IMAGE"):
        decode_image(bytes(data), image(), max_pixels=10**9)


def test_an_image_whose_resized_version_would_be_huge_is_refused() -> None:
    with pytest.raises(InvalidInput, match="1 x 3000: too elongated"):
        decode_image(encoded(Image.new("L", (1, 3000))), image(), max_pixels=3000)


def test_a_palette_image_without_its_palette_is_damaged() -> None:
    data = encoded(picture((50, 40)).convert("P"), transparency=0)
    start = data.index(b"PLTE") - 4
    length = int.from_bytes(data[start : start + 4], "big")
    with pytest.raises(InvalidInput, match="IMAGE is damaged"):
        decode_image(data[:start] + data[start + 12 + length :], image())


def test_whatever_a_reader_trips_over_is_damage() -> None:
    """An empty colour profile behind the pixels is an IndexError to Pillow."""
    data = encoded(picture((50, 40)))
    end = data.index(b"IEND") - 4
    empty_profile = b"\0\0\0\0iCCP" + zlib.crc32(b"iCCP").to_bytes(4, "big")
    with pytest.raises(InvalidInput, match="IMAGE is damaged"):
        decode_image(data[:end] + empty_profile + data[end:], image())


def test_memory_that_is_short_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: object, **__: object) -> None:
        raise MemoryError

    data = encoded(picture((50, 40)))
    monkeypatch.setattr(Image.Image, "convert", short)
    with pytest.raises(MemoryError):
        decode_image(data, image())


def test_random_damage_ends_in_pixels_or_invalid_input() -> None:
    generator = np.random.default_rng(0)
    whole = [encoded(picture((30, 20), mode), kind) for mode, kind in (("RGB", "JPEG"), ("P", "PNG"), ("LA", "PNG"))]
    refused = 0
    for trial in range(600):
        data = bytearray(whole[trial % len(whole)])
        for place in generator.integers(0, len(data), 3):
            data[place] = generator.integers(0, 256)
        try:
            assert decode_image(bytes(data), image()).shape == (32, 32, 3)
        except InvalidInput:
            refused += 1
    assert 0 < refused < 600
