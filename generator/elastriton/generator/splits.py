"""Disjoint parts of labelled data: `fit` parameters, `order` settings, `certify` the one to deploy.

A promise holds only where the certify split had no say in what it certifies, so an item in two splits is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from elastriton.core.errors import ConfigError

ORDER_SHARE = 0.2
"""Of the samples behind the fit part; the others certify."""

Item = str | bytes | tuple[str | bytes, ...]
"""What a model reads: a text, a pair of texts, or the bytes of an image. Not its label."""


@dataclass(frozen=True)
class Splits:
    """The indices of each split's items; those of order and certify are in random order, as the betting test needs."""

    fit: NDArray[np.int64]
    order: NDArray[np.int64]
    certify: NDArray[np.int64]


def splits(n: int, n_fit: int, order_share: float, seed: int) -> Splits:
    """Leave the first `n_fit` of `n` items to fit, and deal the rest to order and certify by one seeded permutation.

    Raises ConfigError where a split would be empty.
    """
    rest = n_fit + np.random.default_rng(seed).permutation(max(0, n - n_fit))
    cut = round(len(rest) * order_share)
    parts = Splits(np.arange(min(n, n_fit)), rest[:cut], rest[cut:])
    if min(map(len, (parts.fit, parts.order, parts.certify))) == 0:
        raise ConfigError(f"{n} item(s), {n_fit} of them to fit, leave a split empty: give more labelled data")
    return parts


def certified_splits(hashes: Sequence[str], n_fit: int, seed: int) -> tuple[Splits, dict[str, list[str]]]:
    """The splits of items with these `item_hash`es, and the hashes of each by its name.

    Raises ConfigError where a split would be empty, or two share an item.
    """
    parts = splits(len(hashes), n_fit, ORDER_SHARE, seed)
    items = {name: [hashes[i] for i in part] for name, part in asdict(parts).items()}
    check_disjoint(items)
    return parts, items


def item_hash(item: Item) -> str:
    """The SHA-256 of one item, in hex."""
    parts = item if isinstance(item, tuple) else (item,)
    encoded = [part.encode() if isinstance(part, str) else part for part in parts]
    framed = b"".join(len(part).to_bytes(8, "big") + part for part in encoded)  # ("a", "bc") is not ("ab", "c")
    return hashlib.sha256(framed).hexdigest()


def split_hash(hashes: Iterable[str]) -> str:
    """The SHA-256, in hex, of a split whose items have these `item_hash`es, whatever their order."""
    return hashlib.sha256("".join(sorted(hashes)).encode()).hexdigest()


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
                "data, then run `elastriton profile` again"
            )
        owner.update(dict.fromkeys(held, name))
