from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

from elastriton.core.errors import ConfigError
from elastriton.core.levels import TokenLevel, constant_level, token_counts
from elastriton.runtime.vit import ClsAttention, ElasticViT, attend

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 5}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "cls": ("vit_tiny_patch16_224", {}),
    "registers and layer scale": ("vit_base_patch14_reg4_dinov2", {}),
    "qk norm and layer scale": ("vit_tiny_patch16_224", {"qk_norm": True, "init_values": 0.5}),
    "pre-norm and quick gelu": ("vit_base_patch16_clip_quickgelu_224", {}),
    "positions without cls": ("deit3_small_patch16_224", {}),
    "scale norm": ("vit_tiny_patch16_224", {"scale_attn_norm": True}),
}
MEAN, STD = (0.48, 0.45, 0.40), (0.27, 0.26, 0.28)


def build(name: str) -> tuple[Any, ElasticViT]:
    """A timm model whose every parameter is far from its neutral initial value, and ours around it."""
    architecture, arguments = MODELS[name]
    vit = timm.create_model(architecture, pretrained=False, **TINY, **arguments).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return vit, ElasticViT(vit, MEAN, STD)


def images(batch: int = 2) -> Tensor:
    return torch.randint(0, 256, (batch, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def normalised(pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std


@pytest.mark.parametrize("name", MODELS)
def test_the_plain_level_is_timm_s_model(name: str) -> None:
    vit, ours = build(name)
    with torch.inference_mode():
        expected = vit.forward_head(vit.forward_features(normalised(images())), pre_logits=True)
        torch.testing.assert_close(ours(images(), TokenLevel(0)), expected, rtol=1e-5, atol=1e-5)
        logits = vit(normalised(images()))
        torch.testing.assert_close(vit.head(ours(images(), TokenLevel(0))), logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("arguments", [{"dynamic_img_size": True}, {"patch_size": 10}])
def test_patches_are_timm_s_for_models_of_any_size_and_for_sides_that_patches_do_not_fill(arguments: Any) -> None:
    vit = timm.create_model("vit_tiny_patch16_224", pretrained=False, **{**TINY, **arguments}).eval()
    with torch.inference_mode():
        expected = vit.patch_embed(normalised(images()))
        torch.testing.assert_close(ElasticViT(vit, MEAN, STD).patch_embed(images()), expected, rtol=1e-5, atol=1e-5)


def slow_attention(attn: Any, x: Tensor, sizes: list[float]) -> tuple[Tensor, Tensor]:
    """Attention of one sample [n, c], head by head and query by query; each key counts as often as its size."""
    dim, heads = attn.head_dim, attn.num_heads
    qkv = attn.qkv(x)
    outs, keys = [], []
    for head in range(heads):
        q, k, v = (qkv[:, part * heads * dim + head * dim :][:, :dim] for part in range(3))
        q, k = attn.q_norm(q), attn.k_norm(k)
        rows = []
        for query in q:
            weights = torch.stack(
                [size * torch.exp(query @ key / dim**0.5) for size, key in zip(sizes, k, strict=True)]
            )
            rows.append((weights / weights.sum()) @ v)
        outs.append(torch.stack(rows))
        keys.append(k)
    return attn.proj(attn.norm(torch.cat(outs, dim=-1))), torch.stack(keys).mean(dim=0)


def slow_merge(x: Tensor, keys: Tensor, sizes: list[float], r: int, prefix: int) -> tuple[Tensor, list[float]]:
    if r == 0:
        return x, sizes
    unit = (keys / keys.norm(dim=-1, keepdim=True)).numpy()
    sources, targets = (np.arange(len(x))[prefix:][np.arange(prefix, len(x)) % 2 == parity] for parity in (0, 1))
    similarity = unit[sources] @ unit[targets].T
    chosen = np.argsort(-similarity.max(axis=1))[: min(r, (len(x) - prefix) // 2)]
    into = {int(sources[i]): int(targets[similarity[i].argmax()]) for i in chosen}
    members: dict[int, list[int]] = {i: [i] for i in [*range(prefix), *sources.tolist(), *targets.tolist()]}
    for source, target in into.items():
        members[target] += members.pop(source)
    total = [sum(sizes[i] for i in group) for group in members.values()]
    means = [sum(sizes[i] * x[i] for i in group) / size for group, size in zip(members.values(), total, strict=True)]
    return torch.stack(means), total  # type: ignore[arg-type]


def slow_merging(ours: ElasticViT, pixels: Tensor, schedule: tuple[int, ...]) -> tuple[Tensor, list[int]]:
    """ToMe from its description, one sample at a time; the features and the token counts."""
    rows, counts = [], []
    for embedded in ours.embed(pixels):
        x, sizes = embedded, [1.0] * len(embedded)
        counts = [len(x)]
        for block, r in zip(ours.vit.blocks, schedule, strict=True):
            attended, keys = slow_attention(block.attn, block.norm1(x), sizes)
            x, sizes = slow_merge(x + block.ls1(attended), keys, sizes, r, ours.prefix)
            x = x + block.ls2(block.mlp(block.norm2(x)))
            counts.append(len(x))
        rows.append(ours.vit.fc_norm(ours.vit.norm(x))[0])
    return torch.stack(rows), counts


@pytest.mark.parametrize("schedule", [(4, 4, 4), (0, 3, 0), (8, 99, 1), (0, 0, 1)])
@pytest.mark.parametrize("name", MODELS)
def test_merging_levels_equal_a_slow_float64_reference(name: str, schedule: tuple[int, ...]) -> None:
    _, ours = build(name)
    ours.double()
    with torch.inference_mode():
        expected, counts = slow_merging(ours, images(), schedule)
        level = TokenLevel(-1, schedule)
        torch.testing.assert_close(ours(images(), level), expected, rtol=1e-9, atol=1e-9)
        assert token_counts(level, counts[0], len(schedule), ours.prefix) == tuple(counts)


@pytest.mark.parametrize("name", MODELS)
def test_proportional_attention_equals_a_slow_float64_reference_on_random_sizes(name: str) -> None:
    attention = build(name)[1].double().vit.blocks[1].attn
    generator = torch.Generator().manual_seed(3)
    for n in range(2, 22):
        x = torch.randn(3, n, 24, generator=generator, dtype=torch.float64)
        sizes = torch.randint(1, 9, (3, n, 1), generator=generator).double()
        with torch.inference_mode():
            out, keys = attend(attention, x, sizes.log())
            first = ClsAttention(attention)(x, sizes.log())
            for row in range(3):
                expected, expected_keys = slow_attention(attention, x[row], sizes[row, :, 0].tolist())
                torch.testing.assert_close(out[row], expected, rtol=0, atol=1e-10)
                torch.testing.assert_close(first[row], expected[:1], rtol=0, atol=1e-10)
                torch.testing.assert_close(keys[row], expected_keys, rtol=0, atol=1e-10)


def slow_prompted(ours: ElasticViT, pixels: Tensor, prompts: Tensor) -> Tensor:
    """VPT from its description: shallow prompts are carried on, deep ones are fresh in every layer."""
    tokens = ours.embed(pixels)
    prefix, patches, carried = tokens[:, : ours.prefix], tokens[:, ours.prefix :], prompts[:, 0]
    n = prompts.shape[2]
    for layer, block in enumerate(ours.vit.blocks):
        if layer < prompts.shape[1]:
            carried = prompts[:, layer]
        out = block(torch.cat([prefix, carried, patches], dim=1))
        prefix, carried, patches = out[:, : ours.prefix], out[:, ours.prefix :][:, :n], out[:, ours.prefix + n :]
    tokens = ours.vit.norm(torch.cat([prefix, carried, patches], dim=1))
    features: Tensor = ours.vit.forward_head(tokens, pre_logits=True)
    return features


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("name", ["cls", "registers and layer scale"])
def test_prompted_levels_equal_a_slow_reference(name: str, layers: int) -> None:
    _, ours = build(name)
    prompts = torch.randn(2, layers, 4, 24, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        out = ours(images(), TokenLevel(4, prompts=4), prompts)
        torch.testing.assert_close(out, slow_prompted(ours, images(), prompts), rtol=1e-5, atol=1e-5)
        assert (out - ours(images(), TokenLevel(0))).abs().max() > 1e-3


def test_every_sample_of_a_batch_has_its_own_prompts_and_its_own_matching() -> None:
    _, ours = build("cls")
    prompts = torch.randn(3, 3, 2, 24, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        for level in (TokenLevel(2, prompts=2), constant_level(-4, 3)):
            given = prompts if level.prompts else None
            together = ours(images(3), level, given)
            for i in range(3):
                alone = ours(images(3)[i : i + 1], level, None if given is None else given[i : i + 1])
                torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-5)


def test_a_prompted_level_without_prompts_is_an_error() -> None:
    with pytest.raises(ConfigError, match="level 4 needs prompts"):
        build("cls")[1](images(), TokenLevel(4, prompts=4))


@pytest.mark.parametrize("pool", ["avg", "map"])
def test_a_model_that_pools_otherwise_is_refused(pool: str) -> None:
    vit = timm.create_model("vit_tiny_patch16_224", pretrained=False, global_pool=pool, **TINY)
    with pytest.raises(ConfigError, match=f"pools by '{pool}'"):
        ElasticViT(vit, MEAN, STD)


@pytest.mark.parametrize("name", ["resnet18", "beit_base_patch16_224"])
def test_a_model_of_another_family_is_refused(name: str) -> None:
    shape = {} if name == "resnet18" else TINY
    with pytest.raises(ConfigError, match="not timm's plain pre-norm VisionTransformer"):
        ElasticViT(timm.create_model(name, pretrained=False, **shape), MEAN, STD)
