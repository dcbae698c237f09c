"""Labelled data: images in an .npz of JPEG bytes or a folder of class folders; texts in .json, .csv or .tsv.

.npz           arrays jpeg (uint8), off (offsets), y (class numbers), label_names
folder         <class name>/<any>.jpg|.jpeg|.png, as torchvision's ImageFolder
.json          {"items": [[text, label], …]}; the text of a pair is itself a list of two
.csv, .tsv     a header with text, (text_pair,) label
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from elastriton.core.errors import ConfigError


@dataclass(frozen=True)
class Labelled:
    """Samples and the name of the right label of each; an image is its bytes, a text a tuple of one or two strings."""

    images: tuple[bytes, ...]
    texts: tuple[tuple[str, ...], ...]
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, start: int, stop: int | None = None) -> Labelled:
        """The samples from `start` up to `stop`."""
        return Labelled(self.images[start:stop], self.texts[start:stop], self.labels[start:stop])


def load_data(path: Path) -> Labelled:
    """Read labelled data. Raises ConfigError where the path is missing or of no known kind."""
    if not path.exists():
        raise ConfigError(f"data {path} does not exist")
    if path.is_dir():
        return _image_folder(path)
    readers = {".npz": _npz, ".json": _json, ".csv": _table, ".tsv": _table}
    if path.suffix not in readers:
        raise ConfigError(f"data {path} is of no known kind; use a folder of class folders or {', '.join(readers)}")
    try:
        return readers[path.suffix](path)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise ConfigError(f"data {path} is malformed: {type(error).__name__}: {error}") from None


def label_numbers(data: Labelled, labels: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The class numbers [n] of the data under the labels of a task. Raises ConfigError for labels it does not have."""
    numbers = {label: number for number, label in enumerate(labels)}
    unknown = sorted(set(data.labels) - numbers.keys())
    if unknown:
        known = ", ".join(labels[:5])
        raise ConfigError(f"the data has {len(unknown)} unknown label(s), e.g. {unknown[0]!r}; the task has {known}, …")
    return np.array([numbers[label] for label in data.labels], dtype=np.int64)


def values(data: Labelled) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """The values [n] of a regression's data. Raises ConfigError for a label that is no finite number."""
    try:
        found = np.array([float(label) for label in data.labels], dtype=np.float32)
    except ValueError as error:
        raise ConfigError(f"the labels of a regression must be numbers: {error}") from None
    if not np.isfinite(found).all():
        raise ConfigError("the labels of a regression must be finite numbers")
    return found


def _npz(path: Path) -> Labelled:
    with np.load(path, allow_pickle=False) as arrays:
        names, numbers, offsets = arrays["label_names"], arrays["y"], arrays["off"]
        blob = arrays["jpeg"].tobytes()
    images = tuple(blob[start:stop] for start, stop in itertools.pairwise(offsets))
    return Labelled(images, (), tuple(str(names[number]) for number in numbers))


def _image_folder(path: Path) -> Labelled:
    files = sorted(file for file in path.glob("*/*") if file.suffix.lower() in {".jpg", ".jpeg", ".png"})
    if not files:
        raise ConfigError(f"data folder {path} has no <class>/<image>.jpg or .png")
    np.random.default_rng(0).shuffle(files)  # type: ignore[arg-type]  # so that the first n hold every class
    return Labelled(tuple(file.read_bytes() for file in files), (), tuple(file.parent.name for file in files))


def _json(path: Path) -> Labelled:
    items = json.loads(path.read_text(encoding="utf-8"))["items"]
    texts = tuple((text,) if isinstance(text, str) else tuple(text) for text, _ in items)
    return Labelled((), texts, tuple(str(label) for _, label in items))


def _table(path: Path) -> Labelled:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))
    texts = tuple((row["text"], row["text_pair"]) if "text_pair" in row else (row["text"],) for row in rows)
    return Labelled((), texts, tuple(row["label"] for row in rows))
