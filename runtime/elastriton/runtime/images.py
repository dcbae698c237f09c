"""Encoded images to the pixels that an encoder reads, exactly as timm's evaluation transform makes them."""

from __future__ import annotations

import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from elastriton.core.errors import InvalidInput
from elastriton.core.plan import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS
from elastriton.core.profile import ImageSpec

FORMATS = ("JPEG", "PNG")
INTERPOLATION = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
}


def decode_image(
    data: bytes, spec: ImageSpec, max_bytes: int = MAX_IMAGE_BYTES, max_pixels: int = MAX_IMAGE_PIXELS
) -> NDArray[np.uint8]:
    """Pixels uint8 [height, width, 3] of a JPEG or PNG: resized to the shorter side, the centre cropped.

    Raises InvalidInput where the bytes are empty, too many, no image, a damaged image, or one of too many pixels.
    """
    if not 0 < len(data) <= max_bytes:
        raise InvalidInput(f"IMAGE has {len(data)} bytes; it must have between 1 and {max_bytes}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # max_pixels is the bound, see below
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > max_pixels:
            raise InvalidInput(f"IMAGE is {image.width} x {image.height}; at most {max_pixels} pixels are allowed")
        pixels = image.convert("RGB")
    except UnidentifiedImageError:
        raise InvalidInput(
            f"IMAGE cannot be decoded; send a JPEG or PNG file, these bytes begin {data[:8]!r}"
        ) from None
    except (InvalidInput, MemoryError):
        raise
    except Exception as error:  # a reader raises what it trips over: of an empty colour profile, an IndexError
        raise InvalidInput(f"IMAGE is damaged: {error}") from None
    return _resize_and_crop(pixels, spec, max_pixels)


def _resize_and_crop(image: Image.Image, spec: ImageSpec, max_pixels: int) -> NDArray[np.uint8]:
    short = min(image.size)
    if short != spec.resize:
        width, height = (int(spec.resize * side / short) for side in image.size)
        if width * height > max_pixels:
            raise InvalidInput(f"IMAGE is {image.width} x {image.height}: too elongated to be resized; crop it first")
        image = image.resize((width, height), INTERPOLATION[spec.interpolation])
    left, top = round((image.width - spec.width) / 2.0), round((image.height - spec.height) / 2.0)
    return np.asarray(image.crop((left, top, left + spec.width, top + spec.height)), dtype=np.uint8)
