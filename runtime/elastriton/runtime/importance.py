"""A plain BERT that also says how much attention each token received: what words are pruned by (runtime/words.py)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from elastriton.runtime.bert import embed, projected, read_out


def features_and_attention(
    model: Any, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The features [batch, width] at level 0, and the attention [batch, tokens] that each token receives.

    That is the mean over layers and heads of the column sums of the attention maps, whose padded rows count nothing
    (the importance of SpAtten, arXiv 2012.09852). The last layer needs queries and keys of all tokens for its map; the
    rest of it is computed for CLS alone, as in `bert.features`.
    """
    x = embed(model, input_ids, token_type_ids)
    rows = attention_mask.to(x.dtype)[:, None]  # [batch, 1, tokens]
    log_mask = rows.log()[:, None]
    *layers, last = model.base_model.encoder.layer
    received = []
    for layer in layers:
        attended, sums = watched(layer.attention.self, x, log_mask, rows)
        received.append(sums)
        x = layer.attention.output(attended, x)
        x = layer.output(layer.intermediate(x), x)
    attended, sums = watched(last.attention.self, x, log_mask, rows, queries=1)
    return read_out(model, attended, x), torch.stack([*received, sums]).mean(dim=0)


def watched(
    attention: Any, x: Tensor, log_mask: Tensor, rows: Tensor, queries: int | None = None
) -> tuple[Tensor, Tensor]:
    """BERT's attention with its map at hand: `x` [b, n, c] -> [b, queries, c] and column sums over `rows`, [b, n]."""
    q, k, v = projected(attention, x, x)
    shares = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + log_mask).softmax(dim=-1)  # [b, heads, n, n]
    sums = (rows @ shares.mean(dim=1)).squeeze(1)
    return (shares[:, :, :queries] @ v).transpose(1, 2).flatten(2), sums
