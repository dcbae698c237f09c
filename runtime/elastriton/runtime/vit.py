"""A vision transformer that runs at a token level: timm's modules, our forward."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from elastriton.core.errors import ConfigError
from elastriton.core.levels import TokenLevel
from elastriton.runtime.tokens import add_prompts, bipartite_soft_matching, replace_prompts


class ElasticViT(nn.Module):
    """timm's VisionTransformer at one token level, from uint8 pixels to the features that a head reads.

    Modifications:
    - the level is an argument of `forward`, nothing in the timm model is patched;
    - pixels are normalised here, by the weights of the patch embedding, so that bytes travel and not floats;
    - merging levels: after each block's attention the schedule's number of tokens is merged, by the similarity of keys,
      and attention is proportional to token size (ToMe, arXiv 2210.09461); where the level says so, merged tokens keep
      the length of their longest part (MLERP, arXiv 2312.01026);
    - prompted levels: prompts stand behind the prefix tokens and are replaced before each block that has its own
      (VPT, arXiv 2203.12119);
    - the plain and prompted levels run timm's own blocks, untouched;
    - the last block computes only the CLS token, which is all that the head reads: same features, less work.
    """

    def __init__(self, vit: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """`vit` is a timm VisionTransformer; `mean` and `std` are of pixels scaled to [0, 1].

        Raises ConfigError where the model is no pre-norm ViT with a CLS token, or pads images itself.
        """
        super().__init__()
        if type(vit) is not VisionTransformer or any(type(block) is not Block for block in vit.blocks):
            raise ConfigError(
                f"{type(vit).__name__} is not timm's plain pre-norm VisionTransformer; elastriton needs one"
            )
        if vit.cls_token is None or vit.global_pool != "token":
            raise ConfigError(
                f"the model pools by {vit.global_pool!r}; elastriton needs a CLS token and pooling 'token'"
            )
        for block in vit.blocks:
            if getattr(block.attn, "qkv", None) is None or getattr(block.attn, "gate", None) is not None:
                raise ConfigError(f"{type(block.attn).__name__} is not timm's plain Attention, which elastriton runs")
        self.vit = vit.eval()
        self.prefix: int = vit.num_prefix_tokens
        self.last = ClsAttention(vit.blocks[-1].attn)
        if vit.patch_embed.dynamic_img_pad:
            raise ConfigError("the model pads images to whole patches; elastriton scales them to the model's size")
        self.patch_embed = PatchEmbed(vit.patch_embed, torch.tensor(mean), torch.tensor(std))

    def forward(self, pixels: Tensor, level: TokenLevel, prompts: Tensor | None = None) -> Tensor:
        """Features [batch, width] of uint8 `pixels` [batch, height, width, 3] at `level`.

        `prompts` [batch, layers, gamma, width] go with gamma > 0: one layer of them is shallow, `depth` are deep.
        """
        x = self.embed(pixels)
        if level.gamma < 0:
            return self.pool(*self._merging(x, level))
        if level.gamma > 0:
            if prompts is None:
                raise ConfigError(f"level {level.gamma} needs prompts")
            return self.pool(self._prompted(x, prompts))
        for block in self.vit.blocks[:-1]:
            x = block(x)
        return self.pool(x)

    def embed(self, pixels: Tensor) -> Tensor:
        """Tokens [batch, n, width] of uint8 pixels, positions added, as timm's forward_features makes them."""
        x = self.vit.patch_drop(self.vit._pos_embed(self.patch_embed(pixels)))
        tokens: Tensor = self.vit.norm_pre(x)
        return tokens

    def pool(self, x: Tensor, log_size: Tensor | None = None) -> Tensor:
        """The last block for the CLS token alone, then the final norms: what timm's head reads."""
        block = self.vit.blocks[-1]
        x = x[:, :1] + block.drop_path1(block.ls1(self.last(block.norm1(x), log_size)))
        x = x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))
        features: Tensor = self.vit.forward_head(self.vit.norm(x), pre_logits=True)
        return features

    def _prompted(self, x: Tensor, prompts: Tensor) -> Tensor:
        x = add_prompts(x, prompts[:, 0], self.prefix)
        for layer, block in enumerate(self.vit.blocks):
            if 0 < layer < prompts.shape[1]:
                x = replace_prompts(x, prompts[:, layer], self.prefix)
            if layer < len(self.vit.blocks) - 1:
                x = block(x)
        return x

    def _merging(self, x: Tensor, level: TokenLevel) -> tuple[Tensor, Tensor | None]:
        """The tokens that enter the last block and the logarithm of their sizes; what it would merge, nobody reads."""
        size = x.new_ones(x.shape[0], x.shape[1], 1)
        log_size: Tensor | None = None
        for block, r in zip(self.vit.blocks[:-1], level.merge[:-1], strict=True):
            attended, keys = attend(block.attn, block.norm1(x), log_size)
            x = x + block.drop_path1(block.ls1(attended))
            if r > 0:
                x, size = bipartite_soft_matching(keys, r, self.prefix).weighted(x, size, level.keep_norm)
                log_size = size.log()
            x = x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))
        return x, log_size


class PatchEmbed(nn.Module):
    """timm's PatchEmbed of uint8 pixels [b, height, width, 3], normalised by its weights: tokens [b, n, c].

    Modifications: the convolution, whose patches do not overlap, is one matrix product of the patches' bytes.
    """

    def __init__(self, patch_embed: Any, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        kernel = patch_embed.proj.weight.detach()  # [c, 3, height, width]
        shift = (kernel * (mean / std)[:, None, None]).sum(dim=(1, 2, 3))
        self.weight = nn.Parameter((kernel / (255.0 * std)[:, None, None]).permute(0, 2, 3, 1).flatten(1))
        self.bias = nn.Parameter(-shift if patch_embed.proj.bias is None else patch_embed.proj.bias.detach() - shift)
        self.norm = patch_embed.norm
        self.patch: tuple[int, int] = patch_embed.patch_size
        self.flat: bool = patch_embed.flatten  # else [b, rows, columns, c], which timm wants of images of any size

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        (high, wide), (_, height, width, _) = self.patch, pixels.shape
        rows, columns = height // high, width // wide
        if height % high or width % wide:
            pixels = pixels[:, : rows * high, : columns * wide]  # as a convolution leaves out what fills no patch
        patches = pixels.reshape(-1, rows, high, columns, wide * 3).transpose(2, 3)  # bytes: a quarter of the traffic
        patches = patches.reshape(-1, rows * columns, high * wide * 3).to(self.weight.dtype)
        tokens: Tensor = self.norm(F.linear(patches, self.weight, self.bias))
        return tokens if self.flat else tokens.unflatten(1, (rows, columns))


class ClsAttention(nn.Module):
    """timm's Attention where CLS alone asks: `x` [b, n, c] and `log_size` [b, n, 1] -> [b, 1, c].

    Modifications: queries are projected for the first token only. The projections are views of timm's one matrix, of
    their own names, so that an exported graph stores the two parts and slices nothing when it runs.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.attention = attention
        inner = attention.num_heads * attention.head_dim
        weight, bias = attention.qkv.weight.detach(), attention.qkv.bias
        self.q_weight, self.kv_weight = nn.Parameter(weight[:inner]), nn.Parameter(weight[inner:])
        self.q_bias = None if bias is None else nn.Parameter(bias.detach()[:inner])
        self.kv_bias = None if bias is None else nn.Parameter(bias.detach()[inner:])

    def forward(self, x: Tensor, log_size: Tensor | None) -> Tensor:
        """What timm's Attention gives for the first token, in proportion to token size where that is given."""
        (q,) = _heads(self.attention, F.linear(x[:, :1], self.q_weight, self.q_bias), 1)
        k, v = _heads(self.attention, F.linear(x, self.kv_weight, self.kv_bias), 2)
        return _answer(self.attention, self.attention.q_norm(q), self.attention.k_norm(k), v, log_size)


def attend(attention: Any, x: Tensor, log_size: Tensor | None) -> tuple[Tensor, Tensor]:
    """timm's Attention, proportional to token size: `x` [b, n, c] -> ([b, n, c], keys averaged over heads [b, n, d]).

    Modifications: `log_size` [b, n, 1] is added to the logits of each key; the mean of the keys is returned as well.
    """
    q, k, v = _heads(attention, attention.qkv(x), 3)
    q, k = attention.q_norm(q), attention.k_norm(k)
    return _answer(attention, q, k, v, log_size), k.mean(dim=1)


def _heads(attention: Any, projected: Tensor, parts: int) -> Tensor:
    """[b, n, parts x heads x d] -> [parts, b, heads, n, d]."""
    b, n, _ = projected.shape
    return projected.reshape(b, n, parts, attention.num_heads, attention.head_dim).permute(2, 0, 3, 1, 4)


def _answer(attention: Any, q: Tensor, k: Tensor, v: Tensor, log_size: Tensor | None) -> Tensor:
    bias = None if log_size is None else log_size.reshape(-1, 1, 1, log_size.shape[1])
    if attention.fused_attn:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    else:
        logits = (q * attention.scale) @ k.transpose(-2, -1)
        out = (logits if bias is None else logits + bias).softmax(dim=-1) @ v
    b, _, n, _ = q.shape
    answer: Tensor = attention.proj(attention.norm(out.transpose(1, 2).reshape(b, n, -1)))
    return answer
