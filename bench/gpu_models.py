"""The encoders of gpu.py: random weights in the libraries' own formats, to run through the product's own path.

Nothing is downloaded: shapes come from timm's and transformers' configurations.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import RobertaConfig, RobertaForSequenceClassification

from elastriton.core.levels import TokenLevel, constant_level, flops, text_flops
from elastriton.core.profile import ImageSpec
from elastriton.runtime.executor import Arrays, example_inputs
from elastriton.runtime.files import TORCH_FOLDER
from elastriton.runtime.torch_encoder import TorchEncoder

LABELS = ("yes", "no")
KERNELS = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


@dataclass(frozen=True)
class Shape:
    """An encoder to measure: its levels, and lengths in tokens; `arguments` change the library's own configuration."""

    kind: Literal["vision", "text"]
    architecture: str
    gammas: tuple[int, ...]
    side: int = 0
    patch: int = 16
    depth: int = 12
    width: int = 768
    lengths: tuple[int, ...] = ()
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def levels(self) -> tuple[TokenLevel, ...]:
        """All levels, merged alike in every layer."""
        return tuple(constant_level(gamma, self.depth) for gamma in self.gammas)

    @property
    def tokens(self) -> tuple[int, ...]:
        """The numbers of tokens to measure: the lengths of texts, or the only one that an image has."""
        return self.lengths or ((self.side // self.patch) ** 2 + 1,)

    def inputs(self, batch: int, tokens: int, level: TokenLevel) -> Arrays:
        """A random batch; prompts are shallow."""
        image = ImageSpec(self.side, self.side, self.side, "bicubic") if self.kind == "vision" else None
        inputs = example_inputs(image, batch, tokens)
        if level.prompts:
            prompts = np.random.default_rng(0).normal(size=(batch, 1, level.prompts, self.width))
            inputs["prompts"] = prompts.astype(np.float32)
        return inputs

    def flops(self, level: TokenLevel, tokens: int) -> float:
        """Of one sample at a level, merging not counted."""
        if self.kind == "vision":
            return flops(level, tokens, self.depth, self.width, self.patch)
        return text_flops(level, tokens, self.depth, self.width)


ROBERTA = {
    "vocab_size": 50265,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
}
SHAPES = {
    "vit_b16": Shape("vision", "vit_base_patch16_224", (-16, -12, -8, -4, 0, 8), 224),
    "vit_l16": Shape("vision", "vit_large_patch16_224", (-8, -6, -4, -2, 0, 8), 224, depth=24, width=1024),
    "roberta_large": Shape(
        "text", "roberta", (-8, -4, -2, -1, 0), depth=24, width=1024, lengths=(128, 512), arguments=ROBERTA
    ),
}
QUICK = {
    "tiny_vit": Shape(
        "vision",
        "vit_tiny_patch16_224",
        (-4, 0, 2),
        32,
        8,
        3,
        24,
        arguments={"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3},
    ),
    "tiny_roberta": Shape(
        "text",
        "roberta",
        (-20, 0),
        depth=3,
        width=24,
        lengths=(8, 16),
        arguments=ROBERTA
        | {"vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3}
        | {"intermediate_size": 96, "max_position_embeddings": 34},
    ),
}
"""To try the script itself on a CPU, in seconds."""


def save(shape: Shape, folder: Path, seed: int) -> None:
    """Write a model of this shape into `folder`/torch, in its library's own format."""
    torch.manual_seed(seed)
    target = folder / TORCH_FOLDER
    if shape.kind == "text":
        labels = dict(enumerate(LABELS))
        config = RobertaConfig(**shape.arguments, id2label=labels, label2id={name: i for i, name in labels.items()})
        RobertaForSequenceClassification(config).save_pretrained(target)
        return
    target.mkdir(parents=True)
    model = timm.create_model(shape.architecture, pretrained=False, num_classes=len(LABELS), **shape.arguments)
    save_file(model.state_dict(), target / "model.safetensors")
    pixels = {"input_size": [3, shape.side, shape.side], "mean": [0.5] * 3, "std": [0.5] * 3}
    config = {
        "architecture": shape.architecture,
        "num_classes": len(LABELS),
        "model_args": shape.arguments,
        "pretrained_cfg": {**pixels, "crop_pct": 1.0, "interpolation": "bicubic", "label_names": LABELS},
    }
    (target / "config.json").write_text(json.dumps(config), encoding="utf-8")


def library(encoder: TorchEncoder) -> Callable[..., Tensor]:
    """The plain level as timm or Hugging Face compute it with fused attention of any kind, over the same weights."""
    peer = _forward(encoder)

    def unrestricted(**inputs: Tensor) -> Tensor:
        with sdpa_kernel(KERNELS):  # cuDNN's among them, which our encoders do without
            return peer(**inputs)

    return unrestricted


def _forward(encoder: TorchEncoder) -> Callable[..., Tensor]:
    model: Any = encoder.encoder
    if hasattr(model, "vit"):
        vit: Any = model.vit
        mean, std = (255.0 * torch.tensor(vit.pretrained_cfg[name]).to(vit.cls_token) for name in ("mean", "std"))

        def images(pixels: Tensor) -> Tensor:
            x = (pixels - mean) / std
            features: Tensor = vit.forward_head(vit.forward_features(x.permute(0, 3, 1, 2)), pre_logits=True)
            return features

        return images
    model.model.set_attn_implementation("sdpa")

    def texts(input_ids: Tensor, attention_mask: Tensor, **_: Tensor) -> Tensor:
        features: Tensor = model.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return features

    return texts
