from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from elastriton.core.errors import InvalidInput
from elastriton.runtime.files import TOKENIZER_FILE
from elastriton.runtime.texts import Encoding, TextTokenizer, TooLong, pad, unpad

TEXTS = ["hello there", "Good MORNING you", "buy two tea please", "unknown words, hello", "hi", "bye bye  bye\n"]


@pytest.fixture(scope="module")
def reference(tiny_bert: Any) -> Any:
    return AutoTokenizer.from_pretrained(tiny_bert("tokenizer", layers=1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, reference: Any) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    reference.backend_tokenizer.save(str(path / TOKENIZER_FILE))
    return path


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_transformers_own(folder: Path, reference: Any, text: str) -> None:
    expected = reference(text, return_token_type_ids=True)
    for given in (text, text.encode()):
        encoding = TextTokenizer(folder, 16).encode([given])
        assert encoding.ids.tolist() == expected["input_ids"]
        assert encoding.segments.tolist() == expected["token_type_ids"]
        assert len(encoding) == len(expected["input_ids"])


def test_pairs_are_transformers_own(folder: Path, reference: Any) -> None:
    tokenizer = TextTokenizer(folder, 16, inputs=2)
    for first, second in pairwise(TEXTS):
        expected = reference(first, second, return_token_type_ids=True)
        encoding = tokenizer.encode([first, second])
        assert encoding.ids.tolist() == expected["input_ids"]
        assert encoding.segments.tolist() == expected["token_type_ids"]
        assert 1 in encoding.segments


def test_truncation_and_padding_saved_with_a_tokenizer_are_ignored(
    folder: Path, reference: Any, tmp_path: Path
) -> None:
    own = AutoTokenizer.from_pretrained(reference.name_or_path).backend_tokenizer
    own.enable_truncation(3)
    own.enable_padding(length=12)
    own.save(str(tmp_path / TOKENIZER_FILE))
    for text in TEXTS:
        assert TextTokenizer(tmp_path, 16).encode([text]).ids.tolist() == reference(text)["input_ids"]


def test_half_a_pair_of_surrogates_is_no_text(folder: Path) -> None:
    for read in (TextTokenizer(folder, 16).encode, TextTokenizer(folder, 16).spans):
        with pytest.raises(InvalidInput, match=r"TEXT is not UTF-8: .* surrogates not allowed"):
            read(["hello \ud800"])


def test_a_text_of_exactly_max_length_fits_and_one_more_token_does_not(folder: Path) -> None:
    tokenizer = TextTokenizer(folder, 6)
    assert len(tokenizer.encode(["hello there you two"])) == 6
    with pytest.raises(InvalidInput, match="over-long: it has 7 tokens, at most 6"):
        tokenizer.encode(["hello there you two tea"])


@pytest.mark.parametrize("text", ["hello" + 1019 * " ", 1024 * "x", 341 * "東" + "!"])
def test_a_text_of_few_tokens_may_have_many_bytes(folder: Path, text: str) -> None:
    tokenizer = TextTokenizer(folder, 16)
    assert tokenizer.max_bytes == 1024
    for fits, too_long in ((text, text + "!"), (text.encode(), text.encode() + b"!")):
        assert 3 <= len(tokenizer.encode([fits])) <= 4
        with pytest.raises(TooLong, match="it has 1025 bytes, at most 1024 are allowed for 16 tokens"):
            tokenizer.encode([too_long])


def test_a_text_of_too_many_bytes_is_refused_unread(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, pairs = TextTokenizer(folder, 16), TextTokenizer(folder, 16, inputs=2)
    for one in (tokenizer, pairs):
        monkeypatch.setattr(one, "_tokenizer", None)  # nobody may ask it
    for read in (tokenizer.encode, tokenizer.spans):
        with pytest.raises(TooLong, match="it has 1048576 bytes"):
            read([b"\xff" * 1024 * 1024])
    with pytest.raises(TooLong, match="it has 1025 bytes"):
        pairs.encode(["a" * 512, b"b" * 513])


@pytest.mark.parametrize("text", [b"", b"   \n", "\u2003", b"\t"])
def test_an_empty_text_is_refused(folder: Path, text: bytes | str) -> None:
    with pytest.raises(InvalidInput, match="TEXT is empty"):
        TextTokenizer(folder, 16).encode([text])
    with pytest.raises(InvalidInput, match="TEXT is empty"):
        TextTokenizer(folder, 16, inputs=2).encode(["hello", text])


@pytest.mark.parametrize("text", [b"\xff\xfe", b"hello \xc3", b"\xed\xa0\x80"])
def test_bytes_that_are_not_utf_8_are_refused(folder: Path, text: bytes) -> None:
    with pytest.raises(InvalidInput, match="TEXT is not UTF-8"):
        TextTokenizer(folder, 16).encode([text])


def test_the_number_of_parts_must_be_the_task_s(folder: Path) -> None:
    with pytest.raises(InvalidInput, match="TEXT has 2 parts; this task takes 1"):
        TextTokenizer(folder, 16).encode(["hello", "there"])
    with pytest.raises(InvalidInput, match="TEXT has 1 parts; this task takes 2"):
        TextTokenizer(folder, 16, inputs=2).encode(["hello"])


def test_pad_and_unpad_are_inverse() -> None:
    generator = np.random.default_rng(0)
    encodings = [Encoding(generator.integers(0, 9, n), generator.integers(0, 2, n)) for n in (3, 1, 7, 7, 2)]
    batch = pad(encodings)
    ids, mask, segments = (batch[name].astype(np.int64) for name in ("input_ids", "attention_mask", "token_type_ids"))
    assert all(array.shape == (5, 7) and array.dtype == np.int64 for array in batch.values())
    assert mask.sum(axis=1).tolist() == [3, 1, 7, 7, 2]
    assert (ids[mask == 0] == 0).all()
    assert (segments[mask == 0] == 0).all()
    for before, after in zip(encodings, unpad(ids, mask, segments), strict=True):
        np.testing.assert_array_equal(before.ids, after.ids)
        np.testing.assert_array_equal(before.segments, after.segments)
