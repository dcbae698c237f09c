"""BERT-like encoders at token levels, against Hugging Face and against a slow float64 reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification

from elastriton.core.errors import ConfigError
from elastriton.core.levels import SPECIAL_TOKENS, TokenLevel, constant_level
from elastriton.runtime.bert import special_tokens
from elastriton.runtime.text import TextEncoder

TINY: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "num_labels": 5,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {},
    "xlm-roberta": {"type_vocab_size": 2},
    "camembert": {},
    "electra": {"embedding_size": 16},
}
Row = Any


def build(family: str, **changes: Any) -> Any:
    """A Hugging Face classifier whose every parameter is far from its neutral initial value."""
    config = AutoConfig.for_model(family, **{**TINY, **FAMILIES.get(family, {}), **changes})
    torch.manual_seed(0)  # the library's own initial values; what comes below is drawn apart
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return model


def texts(lengths: list[int], seed: int = 0, separators: int = 1) -> dict[str, Tensor]:
    """A padded batch of random texts: CLS (2), words, and a SEP (3) at the end and at `separators` - 1 other places."""
    generator = np.random.default_rng(seed)
    ids, mask, segments = (np.zeros((len(lengths), max(lengths)), np.int64) for _ in range(3))
    for row, n in enumerate(lengths):
        ids[row, :n], mask[row, :n] = generator.integers(4, 40, n), 1
        ids[row, generator.integers(1, n, separators - 1)] = 3
        ids[row, n - 1], ids[row, 0] = 3, 2
        segments[row, n // 2 : n] = 1
    arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def alone(batch: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    """One text of a batch, without its padding."""
    n = int(batch["attention_mask"][row].sum())
    return {name: array[row : row + 1, :n] for name, array in batch.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_plain_level_is_hugging_face_s_model(family: str) -> None:
    model = build(family)
    batch = texts([17, 2, 9, 3, 30])
    taken = batch if model.config.type_vocab_size > 1 else {**batch, "token_type_ids": None}
    with torch.inference_mode():
        expected = model(**taken).logits
        ours = TextEncoder(model)
        assert ours.elastic
        logits = ours(**batch, level=TokenLevel(0)) @ ours.head_weight.T + ours.head_bias
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", [*FAMILIES, "distilbert"])
def test_the_attention_that_words_are_pruned_by_is_that_of_hugging_face_s_maps(family: str) -> None:
    model, batch = build(family), texts([17, 2, 9, 30])
    taken = dict(batch)
    if getattr(model.config, "type_vocab_size", 0) < 2:
        taken.pop("token_type_ids")
    with torch.inference_mode():
        maps = model(**taken, output_attentions=True).attentions
        ours = TextEncoder(model)
        features, received = ours.with_attention(**batch)
        plain = ours(**batch, level=TokenLevel(0))
    torch.testing.assert_close(features, plain, rtol=1e-5, atol=1e-5)
    for row, n in enumerate(batch["attention_mask"].sum(dim=1).tolist()):
        expected = torch.stack([layer[row, :, :n, :n].sum(dim=1).mean(dim=0) for layer in maps]).mean(dim=0)
        torch.testing.assert_close(received[row, :n], expected, rtol=1e-5, atol=1e-5)
        assert received[row, :n].sum().item() == pytest.approx(n, abs=1e-3), "every row of a map sums to one"
        assert not received[row, n:].any(), "padding gets none"


def slow_attention(attention: Any, x: Row, sizes: list[float]) -> tuple[Row, Row]:
    """Attention of one text [n, c], head by head and query by query; each key counts as often as its size."""
    heads, dim = attention.num_attention_heads, attention.attention_head_size
    linears = (attention.query, attention.key, attention.value)
    q, k, v = (linear(x).numpy().reshape(len(x), heads, dim) for linear in linears)
    out = np.zeros((len(x), heads, dim))
    for head in range(heads):
        for i in range(len(x)):
            weights = [size * np.exp(q[i, head] @ k[j, head] / dim**0.5) for j, size in enumerate(sizes)]
            out[i, head] = sum(w * v[j, head] for j, w in enumerate(weights)) / sum(weights)
    return torch.from_numpy(out.reshape(len(x), -1)), torch.from_numpy(k.mean(axis=1))


def slow_merge(x: Row, keys: Row, sizes: list[float], fixed: list[bool], r: int) -> tuple[Row, list[float], list[bool]]:
    """ToMe on one text: of the tokens that may merge, every second one looks for its likest among the others."""
    unit = keys / keys.norm(dim=-1, keepdim=True)
    free = [i for i in range(len(x)) if not fixed[i]]
    targets, sources = free[::2], free[1::2]
    best = {i: max(targets, key=lambda j, i=i: float(unit[i] @ unit[j])) for i in sources}  # type: ignore[misc]
    merging = sorted(sources, key=lambda i: -float(unit[i] @ unit[best[i]]))[:r]
    stay = [i for i in range(len(x)) if fixed[i]] + [i for i in sources if i not in merging] + targets
    members = [[i, *(j for j in merging if best[j] == i)] for i in stay]
    totals = [sum(sizes[i] for i in group) for group in members]
    means = [sum(sizes[i] * x[i] for i in group) / total for group, total in zip(members, totals, strict=True)]
    return torch.stack(means), totals, [fixed[i] for i in stay]


def slow_features(model: Any, text: dict[str, Tensor], schedule: tuple[int, ...]) -> Row:
    """One text without padding, token by token: features [width] and the number of tokens before each layer."""
    base, ids = model.base_model, text["input_ids"][0].tolist()
    x = base.embeddings(input_ids=text["input_ids"], token_type_ids=text["token_type_ids"])[0]
    separators = [i for i in range(1, len(ids)) if ids[i] == ids[-1]][-(SPECIAL_TOKENS - 1) :]
    fixed, sizes, share = [i == 0 or i in separators for i in range(len(ids))], [1.0] * len(ids), 100
    for layer, percent in zip(base.encoder.layer, schedule, strict=True):
        attended, keys = slow_attention(layer.attention.self, x, sizes)
        x = layer.attention.output(attended, x)
        spare, before = max(0, len(ids) - SPECIAL_TOKENS), share
        share = max(share - percent, -(-share // 2))
        r = spare * (100 - share) // 100 - spare * (100 - before) // 100
        if share < before:
            x, sizes, fixed = slow_merge(x, keys, sizes, fixed, r)
        assert sum(sizes) == len(ids)
        assert len(x) == len(ids) - spare * (100 - share) // 100
        x = layer.output(layer.intermediate(x), x)
    return base.pooler(x[None])[0]


@pytest.mark.parametrize("separators", [1, 2, 3, 9])
@pytest.mark.parametrize("schedule", [(8, 8, 8), (20, 20, 20), (50, 50, 50), (0, 30, 0), (99, 0, 7)])
def test_merging_levels_equal_a_slow_float64_reference(schedule: tuple[int, ...], separators: int) -> None:
    model = build("bert").double()
    ours = TextEncoder(model)
    lengths = [*range(2, 12), 15, 18, 23]
    batch = texts(lengths, seed=sum(schedule) + separators, separators=separators)
    with torch.inference_mode():
        features = ours(**batch, level=TokenLevel(-1, schedule))
        for row in range(len(lengths)):
            expected = slow_features(model, alone(batch, row), schedule)
            torch.testing.assert_close(features[row], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("gamma", [-5, -20, -50])
def test_padding_and_the_other_texts_of_a_batch_change_nothing(gamma: int) -> None:
    ours, level = TextEncoder(build("bert")), constant_level(gamma, 3)
    lengths = np.random.default_rng(-gamma).integers(2, 60, 100).tolist()
    with torch.inference_mode():
        batch = texts(lengths, separators=2)
        together = ours(**batch, level=level)
        for row in range(len(lengths)):
            own = ours(**alone(batch, row), level=level)
            torch.testing.assert_close(together[row : row + 1], own, rtol=0, atol=1e-4)


def test_a_level_merges_and_a_lower_one_merges_more() -> None:
    ours, batch = TextEncoder(build("bert")), texts([40])
    with torch.inference_mode():
        plain, *merged = (ours(**batch, level=constant_level(gamma, 3)) for gamma in (0, -5, -20, -50))
    distances = [float((other - plain).abs().max()) for other in merged]
    assert 1e-4 < distances[0] < distances[1] < distances[2]


def test_cls_and_the_last_three_separators_never_merge() -> None:
    ids = torch.tensor([[2, 3, 9, 3, 8, 3, 7, 3, 0, 0], [2, 9, 9, 8, 3, 0, 0, 0, 0, 0], [2, 5, 0, 0, 0, 0, 0, 0, 0, 0]])
    protected = special_tokens(ids, ids > 0)
    assert [np.flatnonzero(row).tolist() for row in protected.numpy()] == [[0, 3, 5, 7], [0, 4], [0, 1]]


@pytest.mark.parametrize("family", ["distilbert", "mpnet", "roberta-prelayernorm", "convbert"])
def test_another_architecture_has_only_the_plain_level(family: str) -> None:
    ours, batch = TextEncoder(build(family)), texts([9, 4])
    assert not ours.elastic
    assert ours(**batch, level=TokenLevel(0)).shape[0] == 2
    with pytest.raises(ConfigError, match=r"level -8 merges tokens; \w+ has only level 0"):
        ours(**batch, level=constant_level(-8, 3))


def slow_prompted(model: Any, text: dict[str, Tensor], prompts: Tensor) -> Row:
    """One text without padding under prompts [layers, gamma, width]: features [width]."""
    base, gamma = model.base_model, prompts.shape[1]
    x = base.embeddings(input_ids=text["input_ids"], token_type_ids=text["token_type_ids"])[0]
    x = torch.cat([x[:1], prompts[0], x[1:]])
    for number, layer in enumerate(base.encoder.layer):
        if 0 < number < len(prompts):
            x = torch.cat([x[:1], prompts[number], x[1 + gamma :]])
        attended, _ = slow_attention(layer.attention.self, x, [1.0] * len(x))
        x = layer.attention.output(attended, x)
        x = layer.output(layer.intermediate(x), x)
    return base.pooler(x[None])[0]


@pytest.mark.parametrize("layers", [1, 3])
def test_prompted_levels_equal_a_slow_float64_reference(layers: int) -> None:
    model = build("bert").double()
    ours, lengths = TextEncoder(model), [2, 3, 7, 19, 40]
    batch = texts(lengths)
    generator = torch.Generator().manual_seed(layers)
    prompts = torch.randn(len(lengths), layers, 4, 24, generator=generator, dtype=torch.float64)
    with torch.inference_mode():
        features = ours(**batch, level=constant_level(4, 3), prompts=prompts)
        for row in range(len(lengths)):
            expected = slow_prompted(model, alone(batch, row), prompts[row])
            torch.testing.assert_close(features[row], expected, rtol=1e-9, atol=1e-9)


def test_prompts_are_asked_for() -> None:
    with pytest.raises(ConfigError, match="level 4 needs prompts"):
        TextEncoder(build("bert"))(**texts([9]), level=constant_level(4, 3))
    with pytest.raises(ConfigError, match=r"level 4 adds prompts; \w+ has only level 0"):
        TextEncoder(build("distilbert"))(**texts([9]), level=constant_level(4, 3))
