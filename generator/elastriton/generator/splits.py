"""Disjoint parts of labelled data: `fit` parameters, `order` settings, `certify` the one to deploy.

A promise holds only where the certify split had no say in what it certifies, so an item in two splits is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from elastriton.core.errors import ConfigError

Item = str | bytes | tuple[str, ...]
"""What a model reads: a text, a pair of texts, or the bytes of an image. Not its label."""


@dataclass(frozen=True)
class Splits:
    """The indices of each split's items, in random order, as the betting test needs them."""

    fit: NDArray[np.int64]
    order: NDArray[np.int64]
    certify: NDArray[np.int64]


def splits(n: int, shares: tuple[float, float, float], seed: int) -> Splits:
    """Deal `n` items to fit, order and certify by one seeded permutation; the shares are positive and add up to 1.

    Raises ConfigError for other shares, and where a split would be empty.
    """
    if min(shares) <= 0.0 or abs(sum(shares) - 1.0) > 1e-9:
        raise ConfigError(f"shares {shares} of fit, order and certify: pass three positive ones that add up to 1")
    ends = [round(n * shares[0]), round(n * (shares[0] + shares[1]))]
    parts = np.split(np.random.default_rng(seed).permutation(n), ends)
    if min(map(len, parts)) == 0:
        raise ConfigError(f"{n} item(s) in shares {shares} leave a split empty: give more labelled data, or none to it")
    return Splits(*parts)


def item_hash(item: Item) -> str:
    """The SHA-256 of one item, in hex."""
    parts = item if isinstance(item, tuple) else (item,)
    encoded = [part.encode() if isinstance(part, str) else part for part in parts]
    framed = b"".join(len(part).to_bytes(8, "big") + part for part in encoded)  # ("a", "bc") is not ("ab", "c")
    return hashlib.sha256(framed).hexdigest()


def split_hash(items: Iterable[Item]) -> str:
    """The SHA-256 of a split's items, in hex, whatever their order."""
    return hashlib.sha256("".join(sorted(map(item_hash, items))).encode()).hexdigest()


def check_disjoint(hashes: Mapping[str, Iterable[str]]) -> None:
    """Refuse splits that share an item; `hashes` are the `item_hash`es of each split, by its name."""
    owner: dict[str, str] = {}
    for name, items in hashes.items():
        held = set(items)
        shared = sorted(held & owner.keys())
        if shared:
            raise ConfigError(
                f"{len(shared)} item(s) of split {name!r} are in another split too, e.g. sha256 "
                f"{shared[0][:12]}… in {owner[shared[0]]!r}: certified data must be unseen; remove duplicates from the "
                "data, then split again"
            )
        owner.update(dict.fromkeys(held, name))
