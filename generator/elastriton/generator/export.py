"""Encoders to ONNX: one graph per token level, and one file of weights that all of them share.

    <folder>/level_-8.onnx, level_0.onnx, level_4.onnx …, weights.bin

ONNX Runtime maps the file, so that the levels of one encoder also share the pages in memory.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from elastriton.core.levels import TokenLevel
from elastriton.generator.weights import SharedWeights
from elastriton.runtime.files import WEIGHTS_FILE, graph_file
from elastriton.runtime.text import TextEncoder
from elastriton.runtime.vit import ElasticViT

OPSET = 20


class _AtLevel(nn.Module):
    """An encoder with its level fixed: what one graph computes."""

    def __init__(self, encoder: nn.Module, level: TokenLevel) -> None:
        super().__init__()
        self.encoder = encoder
        self.level = level


class _VisionAtLevel(_AtLevel):
    def forward(self, pixels: Tensor, prompts: Tensor | None = None) -> Any:
        return self.encoder(pixels, self.level, prompts)


class _TextAtLevel(_AtLevel):
    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor, prompts: Tensor | None = None
    ) -> Any:
        return self.encoder(input_ids, attention_mask, token_type_ids, self.level, prompts)


class _TextWithAttention(_AtLevel):
    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Any:
        encoder: Any = self.encoder
        return encoder.with_attention(input_ids, attention_mask, token_type_ids)


def export_vision(
    encoder: ElasticViT, levels: tuple[TokenLevel, ...], size: tuple[int, int], prompt_layers: int, folder: Path
) -> None:
    """Write the graphs of a vision encoder for images of `size` (height, width); `prompt_layers` 1 means shallow."""
    shared = SharedWeights(folder / WEIGHTS_FILE)
    batch = torch.export.Dim("batch", min=1, max=1024)
    pixels = torch.zeros(2, *size, 3, dtype=torch.uint8)
    for level in levels:
        inputs: dict[str, Tensor] = {"pixels": pixels}
        if level.prompts:
            inputs["prompts"] = torch.zeros(2, prompt_layers, level.prompts, encoder.vit.embed_dim)
        axes = {name: {0: batch} for name in inputs}
        with _plain_attention(encoder.vit):
            _export(_VisionAtLevel(encoder, level), inputs, axes, shared, folder / graph_file(level.gamma))


def export_text(
    encoder: TextEncoder,
    levels: tuple[TokenLevel, ...],
    folder: Path,
    *,
    prompt_shape: tuple[int, int] = (1, 1),
    attention: bool = False,
) -> None:
    """Write the graphs of a text encoder, for any batch and any number of tokens.

    `prompt_shape` is how many layers have prompts of their own, and their width. With `attention`, for the small model
    of a cascade, they have a second output: the attention each token receives.
    """
    shared = SharedWeights(folder / WEIGHTS_FILE)
    batch, tokens = torch.export.Dim("batch", min=1, max=1024), torch.export.Dim("tokens", min=2, max=512)
    names = ("input_ids", "attention_mask", "token_type_ids")
    inputs = {
        name: torch.ones(2, 7, dtype=torch.int64) for name in names
    }  # not one tensor: the exporter would merge them
    inputs["token_type_ids"].zero_()
    axes = {name: {0: batch, 1: tokens} for name in inputs}
    kind, outputs = (_TextWithAttention, ("features", "attention")) if attention else (_TextAtLevel, ("features",))
    layers, width = prompt_shape
    for level in levels:
        prompts = {"prompts": torch.zeros(2, layers, level.prompts, width)} if level.prompts else {}
        free = axes | {name: {0: batch} for name in prompts}
        _export(kind(encoder, level), inputs | prompts, free, shared, folder / graph_file(level.gamma), outputs)


def _export(
    module: nn.Module,
    inputs: dict[str, Tensor],
    axes: dict[str, Any],
    shared: SharedWeights,
    path: Path,
    outputs: tuple[str, ...] = ("features",),
) -> None:
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            module.eval(),
            kwargs=inputs,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=axes,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    model = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # the stack trace of every node, with paths of this machine
    del model.graph.value_info[:]
    shared.save(model, path)


@contextlib.contextmanager
def _plain_attention(vit: Any) -> Iterator[None]:
    """Attention as timm writes it out: the exporter's form of fused attention has more transpositions."""
    before = [block.attn.fused_attn for block in vit.blocks]
    for block in vit.blocks:
        block.attn.fused_attn = False
    try:
        yield
    finally:
        for block, fused in zip(vit.blocks, before, strict=True):
            block.attn.fused_attn = fused


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints and warns a page per graph; none of it concerns the user."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
