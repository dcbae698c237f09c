from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from elastriton.core.errors import ConfigError
from elastriton.core.levels import TokenLevel
from elastriton.runtime.models import _vision_head, load_text, load_vision

LABELS = {0: "greet", 1: "leave", 2: "order"}
ROBERTA: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 48,
    "max_position_embeddings": 18,
    "type_vocab_size": 1,
}


def bert(folder: Path, tiny_bert: Any) -> Path:
    made: Path = tiny_bert("for models", layers=2)
    return made


def distilbert(folder: Path, tiny_bert: Any) -> Path:
    config = DistilBertConfig(
        vocab_size=30, dim=24, n_layers=2, n_heads=3, hidden_dim=48, max_position_embeddings=16, id2label=LABELS
    )
    DistilBertForSequenceClassification(config).save_pretrained(folder)
    return folder


def roberta(folder: Path, tiny_bert: Any) -> Path:
    RobertaForSequenceClassification(RobertaConfig(vocab_size=30, id2label=LABELS, **ROBERTA)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("make", "max_length"), [(bert, 40), (distilbert, 16), (roberta, 16)])
def test_features_through_the_head_are_the_model_s_own_logits(
    make: Any, max_length: int, tmp_path: Path, tiny_bert: Any
) -> None:
    torch.manual_seed(0)
    folder = make(tmp_path / "model", tiny_bert)
    model = load_text(str(folder))
    own = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert model.head is not None
    assert model.head.labels == tuple(LABELS.values())
    assert (model.depth, model.width, model.max_length) == (2, 24, max_length)
    for length in (3, max_length):
        ids = torch.randint(4, 17, (3, length))
        mask = torch.ones_like(ids)
        mask[1, 2:] = 0
        with torch.inference_mode():
            features = model.encoder(ids, mask, torch.zeros_like(ids), TokenLevel(0)).numpy()
            expected = own(input_ids=ids, attention_mask=mask).logits.numpy()
        np.testing.assert_allclose(features @ model.head.weight.T + model.head.bias, expected, atol=1e-5)


def test_only_a_model_that_knows_segments_reads_them(tmp_path: Path, tiny_bert: Any) -> None:
    assert load_text(str(bert(tmp_path, tiny_bert))).encoder.reads_segments
    assert not load_text(str(distilbert(tmp_path / "distilbert", tiny_bert))).encoder.reads_segments
    assert not load_text(str(roberta(tmp_path / "roberta", tiny_bert))).encoder.reads_segments


def local_vit(folder: Path, architecture: str, classes: int, **pretrained_cfg: Any) -> Any:
    """A random timm model with its folder in timm's own format."""
    arguments = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
    torch.manual_seed(0)
    vit = timm.create_model(architecture, num_classes=classes, **arguments).eval()
    folder.mkdir()
    save_file(vit.state_dict(), folder / "model.safetensors")
    normal = {"input_size": [3, 32, 32], "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "num_classes": classes}
    config = {"architecture": architecture, "num_classes": classes, "model_args": arguments}
    (folder / "config.json").write_text(json.dumps({**config, "pretrained_cfg": {**normal, **pretrained_cfg}}))
    return vit


def test_a_local_timm_folder_is_loaded_with_its_head_and_its_preparation(tmp_path: Path) -> None:
    crop = {"crop_pct": 0.875, "interpolation": "bilinear", "label_names": ["a", "b", "c", "d"]}
    vit = local_vit(tmp_path / "vit", "vit_base_patch14_reg4_dinov2", 4, **crop)
    model = load_vision(str(tmp_path / "vit"))
    assert (model.tokens, model.depth, model.width) == (16 + 5, 2, 24)
    assert (model.image.height, model.image.width, model.image.resize) == (32, 32, 36)
    assert model.image.interpolation == "bilinear"
    assert model.head is not None
    assert model.head.labels == ("a", "b", "c", "d")
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    mean, std = (torch.tensor(values)[:, None, None] for values in ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4)))
    with torch.inference_mode():
        features = model.encoder(pixels, TokenLevel(0)).numpy()
        expected = vit((pixels.permute(0, 3, 1, 2) / 255 - mean) / std).numpy()
    np.testing.assert_allclose(features @ model.head.weight.T + model.head.bias, expected, atol=1e-5)


def test_a_model_without_classes_has_no_head(tmp_path: Path) -> None:
    local_vit(tmp_path / "vit", "vit_tiny_patch16_224", 0)
    assert load_vision(str(tmp_path / "vit")).head is None


def test_an_imagenet_model_of_timm_s_has_the_labels_of_its_folders() -> None:
    vit = timm.create_model("vit_tiny_patch16_224", pretrained=False)
    assert _vision_head(vit, local=False).labels[:2] == ("n01440764", "n01443537")
    assert len(_vision_head(vit, local=False).labels) == 1000
    assert _vision_head(vit, local=True).labels == (), "a folder's classes are its own"


def test_a_model_that_squashes_its_images_is_refused(tmp_path: Path) -> None:
    local_vit(tmp_path / "vit", "vit_tiny_patch16_224", 3, crop_mode="squash")
    with pytest.raises(ConfigError, match="'squash'; elastriton can only crop the centre"):
        load_vision(str(tmp_path / "vit"))


@pytest.fixture
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("_offline")
@pytest.mark.parametrize("load", [load_vision, load_text])
@pytest.mark.parametrize("name", ["no_such_model", "nobody/no-such-model", "not a name"])
def test_an_id_that_cannot_be_found_is_a_configuration_error(load: Any, name: str) -> None:
    with pytest.raises(ConfigError, match=f"model '{name}' cannot be loaded"):
        load(name)


@pytest.mark.usefixtures("_offline")
@pytest.mark.parametrize("load", [load_vision, load_text])
def test_an_empty_or_damaged_folder_is_a_configuration_error(load: Any, tmp_path: Path, tiny_bert: Any) -> None:
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load(str(tmp_path))
    damaged = tmp_path / "damaged"
    if load is load_text:
        roberta(damaged, tiny_bert)
    else:
        local_vit(damaged, "vit_tiny_patch16_224", 3)
    (damaged / "model.safetensors").write_bytes(b"damaged" * 9)
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load(str(damaged))


def test_a_model_that_gives_several_labels_is_refused(tmp_path: Path, tiny_bert: Any) -> None:
    folder = bert(tmp_path, tiny_bert)
    config = json.loads((folder / "config.json").read_text())
    copy = tmp_path / "toxic"
    shutil.copytree(folder, copy)
    (copy / "config.json").write_text(json.dumps({**config, "problem_type": "multi_label_classification"}))
    with pytest.raises(ConfigError, match="gives each text several labels"):
        load_text(str(copy))


def without(folder: Path, copy: Path, *parts: str) -> str:
    """A copy of a model's folder whose weights lack those with one of these parts in their names."""
    shutil.copytree(folder, copy)
    tensors = load_file(copy / "model.safetensors")
    left = {name: tensor for name, tensor in tensors.items() if not any(part in name for part in parts)}
    assert len(left) < len(tensors)
    save_file(left, copy / "model.safetensors", {"format": "pt"})
    return str(copy)


def test_a_text_model_without_its_last_layer_has_no_head(tmp_path: Path, tiny_bert: Any) -> None:
    """Transformers makes one of random numbers, with no more than a line in the log."""
    folder = bert(tmp_path, tiny_bert)
    assert load_text(str(folder)).head is not None
    assert load_text(without(folder, tmp_path / "bare", "classifier.")).head is None


@pytest.mark.parametrize(
    ("make", "parts", "message"),
    [
        (
            bert,
            ("classifier.", "pooler."),
            r"bert\.pooler\.dense\.bias, .*classifier\.bias, classifier\.weight are missing",
        ),
        (bert, ("layer.1.output.dense.weight",), r"encoder\.layer\.1\.output\.dense\.weight are missing; fine-tune it"),
        (distilbert, ("classifier",), r"pre_classifier\.bias, pre_classifier\.weight are missing"),
        (roberta, ("classifier",), r"classifier\.dense\.bias, .* are missing"),
    ],
)
def test_a_text_model_without_other_weights_is_refused(
    make: Any, parts: tuple[str, ...], message: str, tmp_path: Path, tiny_bert: Any
) -> None:
    folder = make(tmp_path / "whole", tiny_bert)
    with pytest.raises(ConfigError, match=rf"has no trained classifier: .*{message}"):
        load_text(without(folder, tmp_path / "bare", *parts))


@pytest.mark.usefixtures("_offline")
def test_whatever_a_library_raises_over_a_model_is_a_configuration_error(tmp_path: Path, tiny_bert: Any) -> None:
    folder = tmp_path / "broken"
    roberta(folder, tiny_bert)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"no pickle")
    with pytest.raises(ConfigError, match="cannot be loaded: UnpicklingError"):
        load_text(str(folder))
    (folder / "config.json").write_text(json.dumps({"model_type": "roberta", "hidden_size": "wide"}))
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_text(str(folder))


def test_a_text_model_is_no_vision_model(tmp_path: Path, tiny_bert: Any) -> None:
    with pytest.raises(ConfigError, match=r"config\.json names no timm architecture; is it a text model\?"):
        load_vision(str(bert(tmp_path, tiny_bert)))
