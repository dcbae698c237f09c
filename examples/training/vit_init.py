"""Initialisation of a small timm VisionTransformer that is to learn from few images.

Mimetic attention (Trockman & Kolter, 2023), sinusoidal positions (Vaswani et al., 2017) and a patch embedding that
whitens patches (Coates & Ng, 2012).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def sinusoid(side: int, width: int) -> Tensor:
    """Two-dimensional sinusoidal embedding [side * side, width]."""
    frequency = torch.exp(torch.arange(width // 4) / (width // 4) * -math.log(100.0))
    angles = torch.arange(side)[:, None] * frequency
    axis = torch.cat([angles.sin(), angles.cos()], 1)
    return torch.cat([axis.repeat_interleave(side, 0), axis.repeat(side, 1)], 1)


@torch.no_grad()
def initialise(model: Any, x: Tensor) -> None:
    """Mimetic attention, sinusoidal positions, and a patch embedding that whitens patches of `x`."""
    width = model.embed_dim
    for block in model.blocks:
        heads, size = block.attn.num_heads, block.attn.head_dim
        q, k, v = block.attn.qkv.weight.chunk(3)
        for h in range(heads):
            left, s, right = torch.linalg.svd(0.7 * torch.randn(width, width) / width**0.5 + 0.7 * torch.eye(width))
            q[h * size : (h + 1) * size] = (left[:, :size] * s[:size].sqrt()).T
            k[h * size : (h + 1) * size] = s[:size].sqrt()[:, None] * right[:size]
        left, s, right = torch.linalg.svd(0.4 * torch.randn(width, width) / width**0.5 - 0.4 * torch.eye(width))
        block.attn.proj.weight.copy_(left * s.sqrt())
        v.copy_(s.sqrt()[:, None] * right)
    side, patch = model.patch_embed.grid_size[0], model.patch_embed.patch_size[0]
    model.pos_embed[0, 1:] = sinusoid(side, width) * 0.7
    columns = functional.unfold(x[:1000].float() / 127.5 - 1, patch, stride=patch)
    patches = columns.transpose(1, 2).reshape(-1, 3 * patch**2)
    values, vectors = torch.linalg.eigh(torch.cov(patches.T))
    filters = (vectors / (values + 0.02).sqrt()).T.flip(0)[:width]
    model.patch_embed.proj.weight.copy_(filters.reshape(width, 3, patch, patch))
    model.patch_embed.proj.bias.copy_(-filters @ patches.mean(0))
