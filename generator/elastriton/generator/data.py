"""Labelled data: images in an .npz of JPEG bytes or a folder of class folders; texts in .json, .csv or .tsv.

.npz           arrays jpeg (uint8: files one behind the other, image i is jpeg[off[i]:off[i + 1]]), off, y (class
               numbers), label_names (texts)
folder         <class name>/<any>.jpg|.jpeg|.png, as torchvision's ImageFolder
.json          {"items": [[text, label], …]}; the text of a pair is itself a list of two
.csv, .tsv     a header with text, (text_pair,) label; quotes mean something in .csv alone

Files may be sorted, by class or by source, and parts of them then stand for nothing: `load_data` gives every file's
samples in a random order, always the same.
"""

from __future__ import annotations

import csv
import itertools
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from elastriton.core.errors import ConfigError

T = TypeVar("T")

_ARRAYS = ("jpeg", "off", "y", "label_names")
_COLUMNS = ("text", "label")


class _Commas(csv.excel):
    strict = True


class _Tabs(csv.excel_tab):
    quoting = csv.QUOTE_NONE


class Files(Sequence[bytes]):
    """The contents of files, each read when it is asked for."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, index: int) -> bytes: ...

    @overload
    def __getitem__(self, index: slice) -> Files: ...

    def __getitem__(self, index: int | slice) -> bytes | Files:
        return Files(self._paths[index]) if isinstance(index, slice) else self._paths[index].read_bytes()

    def taken(self, order: Sequence[int]) -> Files:
        """The files in another order."""
        return Files([self._paths[i] for i in order])


@dataclass(frozen=True)
class Labelled:
    """Samples and the name of the right label of each; an image is its bytes, a text a tuple of one or two strings.

    `names` say where each is found: a file, or its number from 1 up in the file.
    """

    images: Sequence[bytes]
    texts: tuple[tuple[str, ...], ...]
    labels: tuple[str, ...]
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def sent_texts(self) -> list[str | tuple[str, str]]:
        """The texts as clients take them: a string, or a pair of them, for each sample."""
        return [parts[0] if len(parts) == 1 else (parts[0], parts[1]) for parts in self.texts]

    def part(self, start: int, stop: int | None = None) -> Labelled:
        """The samples from `start` up to `stop`."""
        cut = slice(start, stop)
        return Labelled(self.images[cut], self.texts[cut], self.labels[cut], self.names[cut])


def load_data(path: Path) -> Labelled:
    """The samples of `path` in a random order. Raises ConfigError as `read_data` does."""
    data = read_data(path)
    order = np.random.default_rng(0).permutation(len(data)).tolist()
    images = data.images.taken(order) if isinstance(data.images, Files) else _taken(data.images, order)
    return Labelled(images, _taken(data.texts, order), _taken(data.labels, order), _taken(data.names, order))


def read_data(path: Path) -> Labelled:
    """The samples of `path` in the order of the file; of a folder, by name, each image read when it is asked for.

    Raises ConfigError where the path is missing, of no known kind, or malformed.
    """
    if not path.exists():
        raise ConfigError(f"data {path} does not exist")
    if path.is_dir():
        return _image_folder(path)
    readers = {".npz": _npz, ".json": _json, ".csv": _table, ".tsv": _table}
    if path.suffix not in readers:
        raise ConfigError(f"data {path} is of no known kind; use a folder of class folders or {', '.join(readers)}")
    try:
        return readers[path.suffix](path)
    except (ValueError, TypeError, OSError, EOFError, RecursionError, csv.Error, zipfile.BadZipFile) as error:
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
        _require("array", _ARRAYS, arrays.files)
        jpeg, offsets, numbers, names = (arrays[name] for name in _ARRAYS)
    if jpeg.ndim != 1 or jpeg.dtype != np.uint8:
        raise ValueError(f"jpeg is {_shown(jpeg)}; it must be [bytes], of type uint8")
    if names.ndim != 1 or names.dtype.kind != "U":
        raise ValueError(f"label_names is {_shown(names)}; it must be [classes], texts")
    _check_integers("off", offsets, len(jpeg))
    _check_integers("y", numbers, len(names) - 1)
    blob = jpeg.tobytes()
    images = tuple(blob[start:stop] for start, stop in itertools.pairwise(offsets.tolist()))
    return _numbered("image", images, (), tuple(str(names[number]) for number in numbers))


def _image_folder(path: Path) -> Labelled:
    named = (file for file in path.glob("*/*") if file.suffix.lower() in {".jpg", ".jpeg", ".png"})
    files = sorted(file for file in named if not file.is_dir())
    if not files:
        raise ConfigError(f"data folder {path} has no <class>/<image>.jpg or .png")
    gone = [file for file in files if not file.is_file()]
    if gone:
        raise ConfigError(f"data folder {path}: {len(gone)} image(s) are links to no file, e.g. {gone[0]}; remove them")
    return Labelled(Files(files), (), tuple(file.parent.name for file in files), tuple(map(str, files)))


def _json(path: Path) -> Labelled:
    found = json.loads(path.read_text(encoding="utf-8"))
    items = found.get("items") if isinstance(found, dict) else None
    if not isinstance(items, list):
        raise ValueError('it has no list of items; write {"items": [[text, label], …]}')
    read = [_item(number, item) for number, item in enumerate(items, 1)]
    return _numbered("item", (), tuple(parts for parts, _ in read), tuple(label for _, label in read))


def _item(number: int, item: Any) -> tuple[tuple[str, ...], str]:
    if not isinstance(item, list) or len(item) != 2:
        raise ValueError(f"item {number} is {json.dumps(item)[:60]}; write [text, label]")
    text, label = item
    parts = tuple(text) if isinstance(text, list) else (text,)
    if (isinstance(text, list) and len(text) != 2) or not all(isinstance(part, str) for part in parts):
        raise ValueError(f"item {number} is neither a text nor a list of two")
    if isinstance(label, bool) or not isinstance(label, str | int | float):
        raise ValueError(f"the label of item {number} is {json.dumps(label)[:60]}; it must be a text or a number")
    try:
        "".join(parts).encode()
    except UnicodeEncodeError as error:  # JSON may hold one half of a pair of surrogates
        raise ValueError(f"the text of item {number} is not Unicode: {error}") from None
    return parts, str(label)


def _table(path: Path) -> Labelled:
    with path.open(encoding="utf-8-sig", newline="") as file:
        table = csv.DictReader(file, dialect=_Tabs if path.suffix == ".tsv" else _Commas)
        _require("column", _COLUMNS, table.fieldnames or ())
        rows = list(table)
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():
            raise ValueError(f"row {number} has not as many fields as the header")
    texts = tuple((row["text"], row["text_pair"]) if "text_pair" in row else (row["text"],) for row in rows)
    return _numbered("row", (), texts, tuple(row["label"] for row in rows))


def _require(what: str, needed: Sequence[str], seen: Sequence[str]) -> None:
    if not set(needed) <= set(seen):
        found = f"the {what}s {', '.join(map(repr, seen))}" if seen else f"no {what}s"
        raise ValueError(f"it has {found}; it needs {', '.join(map(repr, needed))}")


def _check_integers(name: str, array: NDArray[Any], most: int) -> None:
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"{name} is {_shown(array)}; it must be [n], integers")
    wrong = array[(array < 0) | (array > most)]
    if len(wrong):
        raise ValueError(f"{name} has {len(wrong)} number(s) that are not from 0 to {most}, e.g. {wrong[0]}")


def _shown(array: NDArray[Any]) -> str:
    return f"{list(array.shape)}, of type {array.dtype}"


def _numbered(
    what: str, images: tuple[bytes, ...], texts: tuple[tuple[str, ...], ...], labels: tuple[str, ...]
) -> Labelled:
    if len(labels) != len(images or texts):
        raise ValueError(f"{len(labels)} labels for {len(images or texts)} samples")
    return Labelled(images, texts, labels, tuple(f"{what} {number}" for number in range(1, len(labels) + 1)))


def _taken(values: Sequence[T], order: Sequence[int]) -> tuple[T, ...]:
    return tuple(values[i] for i in order) if values else ()
