"""Names to models: a timm or Hugging Face id, or a local folder in either library's own format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from elastriton.core.errors import ConfigError
from elastriton.core.profile import ImageSpec
from elastriton.runtime.images import INTERPOLATION
from elastriton.runtime.text import TextEncoder
from elastriton.runtime.vit import ElasticViT


@dataclass(frozen=True)
class Head:
    """A linear classifier: `weight` [classes, width], `bias` [classes], and its labels where the model knows them."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class VisionModel:
    """A loaded vision transformer, its own head if it has one, and how its images are prepared."""

    encoder: ElasticViT
    head: Head | None
    image: ImageSpec
    tokens: int
    depth: int
    width: int


@dataclass(frozen=True)
class TextModel:
    """A loaded text classifier: the encoder, its own head if it has one, and the longest input for its positions."""

    encoder: TextEncoder
    head: Head | None
    max_length: int
    depth: int
    width: int


def load_vision(name: str) -> VisionModel:
    """Load a timm vision transformer by its id, or from a local folder with timm's config.json and safetensors.

    Raises ConfigError where there is no such model, or it is none that elastriton can run.
    """
    import timm

    vit: Any = _try(lambda: _timm_model(name), name)
    data = timm.data.resolve_model_data_config(vit)
    _, height, width = data["input_size"]
    if height != width or data["interpolation"] not in INTERPOLATION:
        raise ConfigError(
            f"{name} wants {height} x {width} by {data['interpolation']!r}; elastriton prepares square images"
        )
    if data["crop_mode"] != "center":
        raise ConfigError(f"{name} crops images by {data['crop_mode']!r}; elastriton can only crop the centre")
    encoder = ElasticViT(vit, tuple(data["mean"]), tuple(data["std"]))
    head = _vision_head(vit, local=Path(name).is_dir()) if isinstance(vit.head, torch.nn.Linear) else None
    image = ImageSpec(height, width, int(min(height, width) / data["crop_pct"]), data["interpolation"])
    tokens = vit.patch_embed.num_patches + vit.num_prefix_tokens
    return VisionModel(encoder, head, image, tokens, len(vit.blocks), vit.num_features)


def load_text(name: str) -> TextModel:
    """Load a Hugging Face sequence-classification model by its id, or from a local folder.

    One that was saved without its last linear layer has no head. Raises ConfigError where there is no such model, it
    lacks other weights, its architecture has no linear head, or it gives several labels at once.
    """
    from transformers import AutoModelForSequenceClassification

    loader = AutoModelForSequenceClassification.from_pretrained
    options: Any = {"dtype": torch.float32, "attn_implementation": "eager", "output_loading_info": True}
    model, loading = _try(lambda: loader(name, **options), name)
    if model.config.problem_type == "multi_label_classification":
        raise ConfigError(f"{name} gives each text several labels; elastriton serves models that choose one")
    labels = tuple(str(model.config.id2label[i]) for i in range(model.config.num_labels))
    encoder = TextEncoder(model)
    head = Head(encoder.head_weight.numpy(), encoder.head_bias.numpy(), labels)
    missing = sorted(loading["missing_keys"])  # transformers fills these with random numbers
    if not all(key.startswith(f"{encoder.head_name}.") for key in missing):
        raise ConfigError(f"{name} has no trained classifier: {', '.join(missing)} are missing; fine-tune it first")
    depth, width = int(model.config.num_hidden_layers), encoder.head_weight.shape[1]
    return TextModel(encoder, None if missing else head, _max_length(model), depth, width)


def _timm_model(name: str) -> Any:
    import timm

    try:
        return timm.create_model(f"local-dir:{Path(name).resolve()}" if Path(name).is_dir() else name, pretrained=True)
    except KeyError as error:
        if "architecture" not in error.args:
            raise
        raise ValueError("its config.json names no timm architecture; is it a text model?") from error


def _vision_head(vit: Any, *, local: bool) -> Head:
    """The head with its labels: the model's own, or for timm's ImageNet models the names of ImageNet's folders."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    labels = (vit.pretrained_cfg or {}).get("label_names") or ()
    if not labels and not local and (subset := infer_imagenet_subset(vit)):
        labels = ImageNetInfo(subset).label_names()
    return Head(vit.head.weight.detach().numpy().copy(), vit.head.bias.detach().numpy().copy(), tuple(labels))


def _max_length(model: Any) -> int:
    """The positions of the model, less those that RoBERTa and its kin keep below the first token."""
    positions = int(getattr(model.config, "max_position_embeddings", 512))
    kept = (m.padding_idx for name, m in model.named_modules() if name.endswith("embeddings.position_embeddings"))
    return positions - next((padding + 1 for padding in kept if padding is not None), 0)


def _try(load: Any, name: str) -> Any:
    try:
        return load()
    except Exception as error:  # whatever a library says of a broken file
        raise ConfigError(f"model {name!r} cannot be loaded: {type(error).__name__}: {error}") from error
