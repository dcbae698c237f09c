"""Labelled data in each of its kinds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elastriton.core.errors import ConfigError
from elastriton.generator.data import label_numbers, load_data


def test_npz(tmp_path: Path) -> None:
    blob = np.frombuffer(b"aabbb", np.uint8)
    names, off = np.array(["cat", "dog"]), np.array([0, 2, 5])
    np.savez(tmp_path / "d.npz", jpeg=blob, off=off, y=np.array([1, 0]), label_names=names)
    data = load_data(tmp_path / "d.npz")
    assert data.images == (b"aa", b"bbb")
    assert data.labels == ("dog", "cat")
    assert data.part(1).labels == ("cat",)


def test_npz_with_pickled_objects_is_refused(tmp_path: Path) -> None:
    evil = np.array([{"a": 1}], dtype=object)
    np.savez(tmp_path / "d.npz", jpeg=evil, off=np.array([0]), y=np.array([0]), label_names=evil)
    with pytest.raises(ConfigError, match="malformed"):
        load_data(tmp_path / "d.npz")


def test_image_folder_is_shuffled_but_always_alike(tmp_path: Path, make_jpeg: Any) -> None:
    for colour in ("red", "blue"):
        (tmp_path / colour).mkdir()
        for i in range(10):
            (tmp_path / colour / f"{i}.jpg").write_bytes(make_jpeg(colour, noise=i))
    data = load_data(tmp_path)
    assert len(data) == 20
    assert set(data.labels[:8]) == {"red", "blue"}
    assert load_data(tmp_path).labels == data.labels


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_tables_of_texts_and_pairs(tmp_path: Path, suffix: str) -> None:
    separator = "," if suffix == ".csv" else "\t"
    rows = [["text", "text_pair", "label"], ["a b", "c", "yes"], ["d", "e", "no"]]
    path = tmp_path / f"d{suffix}"
    path.write_text("\ufeff" + "\n".join(separator.join(row) for row in rows), encoding="utf-8")
    data = load_data(path)
    assert data.texts == (("a b", "c"), ("d", "e"))
    assert data.labels == ("yes", "no")


def test_json_of_texts(tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text(json.dumps({"items": [["hi", "greet"], [["a", "b"], "pair"]]}))
    assert load_data(tmp_path / "d.json").texts == (("hi",), ("a", "b"))


def test_labels_that_the_task_does_not_have(tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text(json.dumps({"items": [["hi", "greet"], ["x", "unheard"]]}))
    data = load_data(tmp_path / "d.json")
    assert label_numbers(data, ["other", "greet", "unheard"]).tolist() == [1, 2]
    with pytest.raises(ConfigError, match=r"1 unknown label\(s\), e.g. 'unheard'"):
        label_numbers(data, ["greet"])


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_data(tmp_path / "gone.json")
    (tmp_path / "d.pkl").write_bytes(b"")
    with pytest.raises(ConfigError, match="no known kind"):
        load_data(tmp_path / "d.pkl")
    (tmp_path / "d.json").write_text('{"rows": []}')
    with pytest.raises(ConfigError, match="malformed"):
        load_data(tmp_path / "d.json")
    (tmp_path / "bare.json").write_text('{"items": [1, 2]}')
    with pytest.raises(ConfigError, match="malformed"):
        load_data(tmp_path / "bare.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="has no"):
        load_data(tmp_path / "empty")
