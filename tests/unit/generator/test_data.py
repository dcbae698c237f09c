"""Labelled data in each of its kinds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elastriton.core.errors import ConfigError
from elastriton.generator.data import label_numbers, load_data, read_data


def test_npz(tmp_path: Path) -> None:
    blob = np.frombuffer(b"aabbb", np.uint8)
    names, off = np.array(["cat", "dog"]), np.array([0, 2, 5])
    np.savez(tmp_path / "d.npz", jpeg=blob, off=off, y=np.array([1, 0]), label_names=names)
    data = read_data(tmp_path / "d.npz")
    assert data.images == (b"aa", b"bbb")
    assert data.labels == ("dog", "cat")
    assert data.part(1).labels == ("cat",)
    assert data.names == ("image 1", "image 2")


def test_npz_with_pickled_objects_is_refused(tmp_path: Path) -> None:
    evil = np.array([{"a": 1}], dtype=object)
    np.savez(tmp_path / "d.npz", jpeg=evil, off=np.array([0]), y=np.array([0]), label_names=evil)
    with pytest.raises(ConfigError, match="malformed"):
        load_data(tmp_path / "d.npz")


@pytest.mark.parametrize("kind", ["d.npz", "d.json", "d.csv", "d.tsv"])
def test_a_sorted_file_comes_in_a_random_order_that_is_always_the_same(tmp_path: Path, kind: str) -> None:
    path, labels = tmp_path / kind, ["first"] * 50 + ["second"] * 50
    if kind == "d.npz":
        numbers = np.repeat([0, 1], 50)
        blob, off = np.arange(100, dtype=np.uint8), np.arange(101)
        np.savez(path, jpeg=blob, off=off, y=numbers, label_names=np.array(["first", "second"]))
    elif kind == "d.json":
        path.write_text(json.dumps({"items": [[f"text {i}", label] for i, label in enumerate(labels)]}))
    else:
        separator = "\t" if kind == "d.tsv" else ","
        path.write_text(
            "\n".join(separator.join(row) for row in [("text", "label"), *(("a b", one) for one in labels)])
        )
    data, again = load_data(path), load_data(path)
    assert {label: data.part(0, 30).labels.count(label) > 5 for label in set(labels)} == {"first": True, "second": True}
    assert (data.labels, data.texts, tuple(data.images)) == (again.labels, again.texts, tuple(again.images))
    for image, text, label, name in zip(
        data.images or 100 * [None], data.texts or 100 * [None], data.labels, data.names, strict=True
    ):
        number = int(name.split()[1]) - 1
        assert label == labels[number]
        assert image is None or image == bytes([number])
        assert text is None or kind != "d.json" or text == (f"text {number}",)


def test_image_folder_is_shuffled_but_always_alike(tmp_path: Path, make_jpeg: Any) -> None:
    for colour in ("red", "blue"):
        (tmp_path / colour).mkdir()
        for i in range(10):
            (tmp_path / colour / f"{i}.jpg").write_bytes(make_jpeg(colour, noise=i))
    data = load_data(tmp_path)
    assert len(data) == 20
    assert set(data.labels[:8]) == {"red", "blue"}
    assert load_data(tmp_path).labels == data.labels
    for name, image, label in zip(data.names, data.images, data.labels, strict=True):
        assert image == Path(name).read_bytes()
        assert Path(name).parent.name == label


def test_images_of_a_folder_are_read_when_they_are_used(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    for i in range(5):
        (tmp_path / "cat" / f"{i}.png").write_bytes(bytes([i]))
    some = load_data(tmp_path).part(1, 3)
    for file in {*(tmp_path / "cat").iterdir()} - set(map(Path, some.names)):
        file.unlink()
    assert [len(image) for image in some.images] == [1, 1]
    Path(some.names[1]).unlink()
    with pytest.raises(FileNotFoundError):
        list(some.images)


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_tables_of_texts_and_pairs(tmp_path: Path, suffix: str) -> None:
    separator = "," if suffix == ".csv" else "\t"
    rows = [["text", "text_pair", "label"], ["a b", "c", "yes"], ["d", "e", "no"]]
    path = tmp_path / f"d{suffix}"
    path.write_text("\ufeff" + "\n".join(separator.join(row) for row in rows), encoding="utf-8")
    data = read_data(path)
    assert data.texts == (("a b", "c"), ("d", "e"))
    assert data.labels == ("yes", "no")


def test_json_of_texts(tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text(json.dumps({"items": [["hi", "greet"], [["a", "b"], "pair"]]}))
    assert read_data(tmp_path / "d.json").texts == (("hi",), ("a", "b"))


def test_quotes_mean_nothing_in_a_tsv_and_something_in_a_csv(tmp_path: Path) -> None:
    (tmp_path / "d.tsv").write_text('text\tlabel\n"so it begins\tpos\nfine\tpos\na "great" one"\tneg\n')
    assert read_data(tmp_path / "d.tsv").texts == (('"so it begins',), ("fine",), ('a "great" one"',))
    (tmp_path / "d.csv").write_text('text,label\n"a, ""b""\nc",pos\n')
    assert read_data(tmp_path / "d.csv").texts == (('a, "b"\nc',),)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.tsv", b"text\tlabel\na\tpos\nb\tc\tpos\n", "row 2 has not as many fields as the header"),
        ("d.csv", b"text,label\na,pos\nb\n", "row 2 has not as many fields as the header"),
        ("d.csv", b'text,label\n"a,pos\n' + 200_000 * b"x", "field larger than"),
        ("d.csv", b'text,label\n"a" b,pos\n', "expected after"),
        ("d.npz", b"", "No data left in file"),
        ("d.npz", b"PK\x03\x04 cut off", "BadZipFile"),
        ("d.tsv", b"sentence\tlabel\na\tpos\n", "has the columns 'sentence', 'label'; it needs 'text', 'label'"),
        ("d.csv", b"text;label\na;pos\n", "has the columns 'text;label'; it needs 'text', 'label'"),
        ("d.csv", b"", "has no columns; it needs 'text', 'label'"),
        ("d.json", b'{"items": [["a", "pos"], [3, "neg"]]}', "item 2 is neither a text nor a list of two"),
        (
            "d.json",
            b'{"items": [{"text": "a", "label": "b"}]}',
            r'item 1 is \{"text": "a", "label": "b"\}; write \[text,',
        ),
        ("d.json", b'{"items": ["ab"]}', r'item 1 is "ab"; write \[text, label\]'),
        ("d.json", b'{"items": [["a", "b", "c"]]}', r'item 1 is \["a", "b", "c"\]; write \[text, label\]'),
        ("d.json", b'{"items": {"ab": 1}}', "it has no list of items; write"),
        (
            "d.json",
            b'{"items": [["a", "pos"], ["b", null]]}',
            "the label of item 2 is null; it must be a text or a number",
        ),
        ("d.json", b'{"items": [["a", true]]}', "the label of item 1 is true; it must be"),
        ("d.json", b'[["a", "b"]]', "it has no list of items; write"),
        (
            "d.json",
            b'{"items": [["a", "b"], ["\\ud800", "c"]]}',
            "the text of item 2 is not Unicode: 'utf-8' codec can't",
        ),
        ("d.json", b'{"items": ' + 100_000 * b"[" + 100_000 * b"]" + b"}", "RecursionError"),
        ("d.json", b'{"items": [["a", "pos"], [[], "neg"]]}', "item 2 is neither a text nor a list of two"),
        (
            "d.json",
            b'{"items": [["a", "pos"], [["b", "", ""], "neg"]]}',
            "item 2 is neither a text nor a list of two",
        ),
        ("d.json", b'{"items": [["a", "pos"], [[3, 4], "neg"]]}', "item 2 is neither a text nor a list of two"),
        ("d.json", b'{"items": [["a", "pos"], ["\xff", "neg"]]}', "UnicodeDecodeError"),
    ],
)
def test_what_is_malformed_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_data(tmp_path / name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": None}, "has the arrays 'jpeg', 'off', 'label_names'; it needs 'jpeg', 'off', 'y', 'label_names'"),
        ({"y": np.array([-1, 0])}, r"y has 1 number\(s\) that are not from 0 to 1, e.g. -1"),
        ({"y": np.array([0, 2])}, r"y has 1 number\(s\) that are not from 0 to 1, e.g. 2"),
        ({"y": np.array([True, False])}, r"y is \[2\], of type bool; it must be \[n\], integers"),
        ({"y": np.array([[1], [0]])}, r"y is \[2, 1\], of type int64; it must be \[n\], integers"),
        ({"y": np.array([1.0, 0.0])}, r"y is \[2\], of type float64"),
        (
            {"label_names": np.array([b"cat", b"dog"])},
            r"label_names is \[2\], of type \|S3; it must be \[classes\], texts",
        ),
        ({"label_names": np.array([["cat", "dog"]])}, r"label_names is \[1, 2\], of type <U3"),
        ({"off": np.array([0, 2, 6])}, r"off has 1 number\(s\) that are not from 0 to 5, e.g. 6"),
        ({"off": np.array([0.0, 2.0, 5.0])}, r"off is \[3\], of type float64"),
        ({"jpeg": np.zeros(5)}, r"jpeg is \[5\], of type float64; it must be \[bytes\], of type uint8"),
    ],
)
def test_arrays_that_say_nothing_sensible(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    """Read as they are, y of -1 is the last class and y of True the second."""
    good = {"jpeg": np.zeros(5, np.uint8), "off": np.array([0, 2, 5]), "y": np.array([1, 0])}
    arrays = {**good, "label_names": np.array(["cat", "dog"]), **changes}
    np.savez(tmp_path / "d.npz", **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(ConfigError, match=message):
        load_data(tmp_path / "d.npz")


def test_an_image_folder_holds_files(tmp_path: Path) -> None:
    (tmp_path / "cat" / "older.png").mkdir(parents=True)
    (tmp_path / "cat" / "1.png").write_bytes(b"1")
    assert read_data(tmp_path).names == (str(tmp_path / "cat" / "1.png"),)
    (tmp_path / "cat" / "2.png").symlink_to("gone.png")
    with pytest.raises(ConfigError, match=r"1 image\(s\) are links to no file, e.g. .*/cat/2.png; remove them"):
        read_data(tmp_path)


def test_as_many_labels_as_images(tmp_path: Path) -> None:
    names = np.array(["cat"])
    np.savez(
        tmp_path / "d.npz", jpeg=np.zeros(3, np.uint8), off=np.array([0, 3]), y=np.array([0, 0]), label_names=names
    )
    with pytest.raises(ConfigError, match="2 labels for 1 samples"):
        load_data(tmp_path / "d.npz")


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
