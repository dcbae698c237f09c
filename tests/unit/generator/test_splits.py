"""Splits are disjoint, random and named by what is in them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elastriton.core.errors import ConfigError
from elastriton.generator.splits import Item, check_disjoint, item_hash, split_hash, splits


@given(st.integers(10, 500), st.floats(0.1, 0.8), st.integers(0, 2**32))
def test_every_item_is_in_one_split_and_sizes_follow_the_shares(n: int, order_share: float, seed: int) -> None:
    n_fit = n // 4
    parts = splits(n, n_fit, order_share, seed)
    dealt = [parts.fit, parts.order, parts.certify]
    assert sorted(np.concatenate(dealt).tolist()) == list(range(n))
    assert parts.fit.tolist() == list(range(n_fit)), "what profiling has fitted on stays there"
    assert abs(len(parts.order) - order_share * (n - n_fit)) <= 1


def test_the_seed_alone_decides_and_the_order_is_random() -> None:
    one, same, other = splits(1000, 200, 0.375, 3), splits(1000, 200, 0.375, 3), splits(1000, 200, 0.375, 4)
    np.testing.assert_array_equal(one.certify, same.certify)
    assert set(one.certify.tolist()) != set(other.certify.tolist())
    assert abs(np.corrcoef(np.arange(500), one.certify)[0, 1]) < 0.2


@pytest.mark.parametrize("n", [0, 2])
def test_too_few_items_are_refused(n: int) -> None:
    with pytest.raises(ConfigError, match=rf"{n} item\(s\), 1 of them to fit, leave a split empty"):
        splits(n, 1, 0.5, 0)


def test_a_hash_names_what_an_item_is_made_of() -> None:
    items: list[Item] = ["a", b"b", ("a", "b"), ("ab",), ("", "ab"), "", ("", "")]
    assert len({item_hash(item) for item in items}) == len(items)
    assert item_hash("tea") == item_hash(b"tea") == item_hash(("tea",))


def hashed(*items: Item) -> str:
    return split_hash(map(item_hash, items))


def test_a_split_s_hash_is_that_of_its_items_in_any_order() -> None:
    assert hashed("x", "y", ("p", "q")) == hashed(("p", "q"), "y", "x")
    assert len({hashed(*items) for items in (["x", "y"], ["x", "y", "y"], ["x"], ["xy"], [])}) == 5
    assert len(hashed()) == 64


def test_the_same_text_in_two_splits_is_refused() -> None:
    texts = ["good", "bad", "fine", "good", "dull", "odd", "bad", "new", "old", "so"]
    hashes = {"fit": map(item_hash, texts[:3]), "order": map(item_hash, texts[3:5]), "certify": ["c", "d"]}
    with pytest.raises(ConfigError, match=r"1 item\(s\) of split 'order' .* in 'fit': .*remove duplicates"):
        check_disjoint(hashes)
    with pytest.raises(ConfigError, match=r"1 item\(s\) of split 'certify' .* in 'order'"):
        check_disjoint({"fit": ["a"], "order": ["b"], "certify": ["c", "b"]})


def test_disjoint_splits_and_duplicates_within_one_are_let_through() -> None:
    check_disjoint({"fit": ["a", "a"], "order": ["b"], "certify": ["c"]})
