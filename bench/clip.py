"""The image tower of CLIP ViT-B/16 (Radford et al., 2021) as a timm model, for benches: weights dequantised from int8.

For benchmarks only: the weights may not be shipped (../shared/data/MANIFEST.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor
from vit_training import write_vit

CLIP = Path(__file__).parents[2] / "shared/data/models/clip-vit-b16-int8"
ARCHITECTURE = "vit_base_patch16_clip_quickgelu_224"
PARTS = {
    "layer_norm1": "norm1",
    "layer_norm2": "norm2",
    "self_attn.out_proj": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
PREPARATION = ("input_size", "interpolation", "mean", "std", "crop_pct")


def write_clip(folder: Path, labels: list[str], weight: Tensor | None = None, bias: Tensor | None = None) -> None:
    """The tower under a linear head [classes, 768] as a local folder that timm reads; without `weight` it is random."""
    vit: Any = timm.create_model(ARCHITECTURE, num_classes=len(labels))
    vit.load_state_dict(clip_as_timm(), strict=False)
    if weight is not None:
        vit.head.weight.data, vit.head.bias.data = weight, bias
    image = {name: vit.pretrained_cfg[name] for name in PREPARATION}
    pretrained = image | {"label_names": labels}
    write_vit(folder, vit, {"architecture": ARCHITECTURE, "num_classes": len(labels), "pretrained_cfg": pretrained})


def clip_as_timm() -> dict[str, Tensor]:
    """The tower's weights under timm's names, without a head."""
    stored = load_file(CLIP / "model.safetensors")
    scales = {name: stored[f"{name}.scale"][:, None] for name in stored if f"{name}.scale" in stored}
    clip = {name.removeprefix("vision_model."): t.float() * scales.get(name, 1.0) for name, t in stored.items()}
    found = {
        "cls_token": clip["embeddings.class_embedding"].reshape(1, 1, -1),
        "pos_embed": clip["embeddings.position_embedding.weight"][None],
        "patch_embed.proj.weight": clip["embeddings.patch_embedding.weight"],
    }
    for kind in ("weight", "bias"):
        found |= {f"norm_pre.{kind}": clip[f"pre_layrnorm.{kind}"], f"norm.{kind}": clip[f"post_layernorm.{kind}"]}
        for layer in range(12):
            source, target = f"encoder.layers.{layer}", f"blocks.{layer}"
            found |= {f"{target}.{new}.{kind}": clip[f"{source}.{old}.{kind}"] for old, new in PARTS.items()}
            qkv = [clip[f"{source}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            found[f"{target}.attn.qkv.{kind}"] = torch.cat(qkv)
    return found
