"""A BERT that runs at a token level: Hugging Face's modules, our forward."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from elastriton.core.levels import SPECIAL_TOKENS, TokenLevel, merged_shares
from elastriton.runtime.tokens import add_prompts, masked_soft_matching, replace_prompts

LAYERS = frozenset(f"{family}Layer" for family in ("Bert", "Camembert", "Electra", "Roberta", "XLMRoberta"))
"""The layers that `features` knows: attention.self, attention.output, intermediate, output; norms behind the sums."""


def is_elastic(model: Any) -> bool:
    """Whether `features` can run this Hugging Face sequence-classification model: BERT, or one built just like it."""
    layers = getattr(getattr(model.base_model, "encoder", None), "layer", ())
    kinds = {type(layer).__name__ for layer in layers}
    return bool(kinds) and kinds <= LAYERS and not model.config.is_decoder


def features(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    token_type_ids: Tensor | None,
    level: TokenLevel,
    prompts: Tensor | None = None,
) -> Tensor:
    """Features [batch, width] of token ids, mask and segment ids, each [batch, tokens], at `level`.

    `prompts` [batch, layers, gamma, width] go with gamma > 0: one layer of them is shallow, `depth` are deep.

    Modifications to Hugging Face's forward:
    - prompted levels: prompts stand behind CLS, without a position, and are replaced before each layer that has its own
      (P-tuning v2, arXiv 2110.07602, in VPT's form: they are tokens and not keys and values, so that all levels share
      one forward);
    - merging levels: after each layer's attention the level's percentage of each text's tokens is merged, by the
      similarity of keys, and attention is proportional to token size (ToMe, arXiv 2210.09461). CLS and separators never
      merge; padding has size 0: it takes no part, and a text's result does not depend on it;
    - the last layer computes only the CLS token, which is all that the head reads: same features, less work.
    """
    x = embed(model, input_ids, token_type_ids)
    real = attention_mask > 0
    mergeable = real & ~special_tokens(input_ids, real)
    tokens, spare = input_ids.shape[1], (real.sum(dim=-1) - SPECIAL_TOKENS).clamp(min=0)
    protected = (real & ~mergeable).sum(dim=-1)  # so many tokens come first once something has merged
    size = real.to(x.dtype)[:, :, None]
    if prompts is not None:
        x = add_prompts(x, prompts[:, 0])
        size = add_prompts(size, torch.ones_like(prompts[:, 0, :, :1]))
    log_size = size.log()

    *layers, last = model.base_model.encoder.layer
    shares = merged_shares(level, len(layers))
    for number, (layer, (before, after)) in enumerate(zip(layers, pairwise(shares), strict=True)):
        x = _prompted(x, prompts, number)
        attended, keys = attend(layer.attention.self, x, log_size)
        x = layer.attention.output(attended, x)
        if after > before:
            r = (spare * after // 100) - (spare * before // 100)
            slots = tokens - (tokens - SPECIAL_TOKENS) * after // 100  # what a text without padding keeps
            x, size = masked_soft_matching(keys, real, mergeable, r, slots).weighted(x, size)
            log_size = size.log()
            real = size[:, :, 0] > 0
            mergeable = real & (torch.arange(slots, device=x.device) >= protected[:, None])
        x = layer.output(layer.intermediate(x), x)

    x = _prompted(x, prompts, len(layers))
    attended, _ = attend(last.attention.self, x, log_size, queries=1)
    return read_out(model, attended, x)


def embed(model: Any, input_ids: Tensor, token_type_ids: Tensor | None) -> Tensor:
    """What enters the first layer: [batch, tokens, width]."""
    base = model.base_model
    x: Tensor = base.embeddings(input_ids=input_ids, token_type_ids=token_type_ids)
    return base.embeddings_project(x) if hasattr(base, "embeddings_project") else x


def read_out(model: Any, attended: Tensor, x: Tensor) -> Tensor:
    """The features [batch, width], from what CLS attended to in the last layer ([batch, 1, width]) and its input `x`.

    The head reads CLS alone, so the last layer computes nothing else: same features, less work.
    """
    base = model.base_model
    last = base.encoder.layer[-1]
    x = last.attention.output(attended, x[:, :1])
    x = last.output(last.intermediate(x), x)
    pooler = getattr(base, "pooler", None)
    read: Tensor = model.classifier(x if pooler is None else pooler(x))
    return read


def _prompted(x: Tensor, prompts: Tensor | None, layer: int) -> Tensor:
    """What enters a layer: with its own prompts in the place of the last one's, where it has any."""
    if prompts is None or not 0 < layer < prompts.shape[1]:
        return x
    return replace_prompts(x, prompts[:, layer])


def special_tokens(input_ids: Tensor, real: Tensor) -> Tensor:
    """Bool [batch, tokens]: CLS, the first token, and the last three of those that equal a text's last: separators."""
    last = input_ids.gather(-1, real.sum(dim=-1, keepdim=True) - 1)
    separators = (real & (input_ids == last)).to(torch.int64)
    following = separators.sum(dim=-1, keepdim=True) - separators.cumsum(dim=-1)
    first = torch.arange(input_ids.shape[1], device=input_ids.device) == 0
    return first | ((separators > 0) & (following < SPECIAL_TOKENS - 1))


def attend(attention: Any, x: Tensor, log_size: Tensor, queries: int | None = None) -> tuple[Tensor, Tensor]:
    """BERT's attention, proportional to token size: `x` [b, n, c] -> ([b, n, c], keys averaged over heads [b, n, d]).

    Modifications: `log_size` [b, n, 1] (minus infinity for padding) is added to the logits of each key; only the first
    `queries` tokens ask, if given; the mean of the keys is returned as well.
    """
    q, k, v = projected(attention, x, x[:, :queries])
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=log_size[:, None, None, :, 0])
    return out.transpose(1, 2).flatten(2), k.mean(dim=1)


def projected(attention: Any, x: Tensor, asking: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries of the tokens `asking` [b, m, c], keys and values of `x` [b, n, c]: [b, heads, m or n, d] each."""
    heads = (attention.num_attention_heads, attention.attention_head_size)
    linears = ((attention.query, asking), (attention.key, x), (attention.value, x))
    q, k, v = (linear(tokens).unflatten(-1, heads).transpose(1, 2) for linear, tokens in linears)
    return q, k, v
