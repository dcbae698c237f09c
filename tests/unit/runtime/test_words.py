"""Pruned texts, by the tokens of two very different tokenizers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from elastriton.core.pruning import Pruning
from elastriton.runtime.files import TOKENIZER_FILE
from elastriton.runtime.texts import TextTokenizer
from elastriton.runtime.words import shorten

TEXT = "the café isn't  naïve,\tbut 東京 is 😀 fine — really"
CORPUS = [TEXT, "hello there good morning", "buy two tea please", "see you, goodbye"] * 3


def byte_level(pairs: bool) -> Tokenizer:
    """A byte-level BPE as RoBERTa's; without `pairs` it has no special tokens, as GPT-2's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, special_tokens=["<s>", "</s>"])
    tokenizer.train_from_iterator(CORPUS, trainer)
    if pairs:
        tokenizer.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0), trim_offsets=False)
    return tokenizer


def word_piece() -> Tokenizer:
    """A lower-casing WordPiece as BERT's, over a small vocabulary of word pieces."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "acefhinorstuvy")]
    pieces += ["hello", "good", "the", "is", "really", "'", ",", "tea"]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


MAKERS: dict[str, Callable[[], Tokenizer]] = {
    "word pieces": word_piece,
    "bytes": lambda: byte_level(True),
    "bytes, none special": lambda: byte_level(False),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {}
    for name, make in MAKERS.items():
        found[name] = tmp_path_factory.mktemp("tokenizer")
        make().save(str(found[name] / TOKENIZER_FILE))
    return found


@pytest.fixture(params=list(MAKERS))
def folder(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    return folders[request.param]


@pytest.mark.parametrize("word", ["café", "naïve,", "東京", "😀", "really", "—"])
def test_each_word_is_found_by_the_characters_of_its_tokens(folder: Path, word: str) -> None:
    spans = TextTokenizer(folder, 512).spans([TEXT])
    start = TEXT.index(word)
    inside = [span is not None and max(span[1], start) < min(span[2], start + len(word)) for span in spans]
    assert any(inside)
    short = shorten([TEXT], spans, np.array(inside, float), Pruning(scale=1.0, floor=1))
    assert short.texts == (word,)
    assert (short.words, short.kept) == (len(TEXT.split()), 1)


@pytest.mark.parametrize("control", ["\x1c", "\x1f", "\x85"])
def test_control_characters_are_no_blanks_to_tokenizers(folders: dict[str, Path], control: str) -> None:
    """Blanks in their place would make more tokens of a text than it had."""
    text = f"good{control}tea is really good"
    spans = TextTokenizer(folders["word pieces"], 512).spans([text])
    short = shorten([text], spans, np.arange(len(spans), 0.0, -1.0), Pruning(keep_rate=0.5, floor=1))
    assert short.texts == (f"good{control}tea is",)


def test_the_parts_of_a_pair_are_pruned_apart(folders: dict[str, Path]) -> None:
    pair = ("hello good tea", "tea is good hello")
    for name in ("word pieces", "bytes"):
        spans = TextTokenizer(folders[name], 64, 2).spans(pair)
        attention = np.array([0.0 if span is None else 10.0 if span[0] == 0 else 1.0 for span in spans])
        attention[[i for i, span in enumerate(spans) if span is not None and span[0] == 1 and span[1] > 4]] = 0.1
        short = shorten(pair, spans, attention, Pruning(scale=0.5, floor=1))
        assert short.texts == ("hello good tea", "tea is"), "each part by the mean of its own words"
        assert (short.words, short.kept) == (7, 5)


def test_attention_on_special_tokens_changes_nothing(folders: dict[str, Path]) -> None:
    text = "hello good tea"
    spans = TextTokenizer(folders["bytes"], 64).spans([text])
    assert spans[0] is None
    assert spans[-1] is None
    attention = np.array([0.0 if span is None else 1.0 if span[2] <= len("hello") else 0.1 for span in spans])
    assert shorten([text], spans, attention, Pruning(scale=0.9, floor=1)).texts == ("hello",)
    attention[[0, -1]] = 1e9
    assert shorten([text], spans, attention, Pruning(scale=0.9, floor=1)).texts == ("hello",)


def test_a_text_that_loses_nothing_stays_as_it_came(folder: Path) -> None:
    text = "  hello\t good \n tea "
    spans = TextTokenizer(folder, 64).spans([text])
    assert shorten([text], spans, np.ones(len(spans)), Pruning(scale=0.0)).texts == (text,)


@settings(deadline=None, max_examples=60)
@given(text=st.text(min_size=1, max_size=60).filter(lambda text: text.strip() and text.isprintable()), data=st.data())
def test_what_is_left_is_a_subsequence_of_the_words_that_the_other_tokenizer_reads(
    folders: dict[str, Path], text: str, data: st.DataObject
) -> None:
    for small, large in (("word pieces", "bytes"), ("bytes", "word pieces")):
        spans = TextTokenizer(folders[small], 512).spans([text])
        attention = np.array(data.draw(st.lists(st.floats(0, 1), min_size=len(spans), max_size=len(spans))))
        floor = data.draw(st.integers(1, 3))
        short = shorten([text], spans, attention, Pruning(scale=1.0, floor=floor))
        left = iter(text.split())
        assert all(word in left for word in short.texts[0].split()), "in their order"
        assert len(short.texts[0].split()) == short.kept >= min(floor, short.words)
        assert short.words == len(text.split())
        whole, pruned = (TextTokenizer(folders[large], 512).encode([one]) for one in (text, short.texts[0]))
        assert 0 < len(pruned) <= len(whole) + 1
