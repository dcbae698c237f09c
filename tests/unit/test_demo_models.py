"""The shipped vision model keeps its word on the whole EuroSAT test set, which does not ship."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from elastriton.core.levels import constant_level
from elastriton.runtime.images import decode_image
from elastriton.runtime.models import load_vision

MODEL = Path(__file__).parents[2] / "examples/demo/models/eurosat-vit"


def test_at_least_90_percent_of_eurosat(shared_data: Path) -> None:
    model = load_vision(str(MODEL))
    assert model.head is not None
    assert model.tokens >= 65
    data = np.load(shared_data / "vision/eurosat.npz", allow_pickle=False)
    bounds = list(zip(data["off_test"][:-1], data["off_test"][1:], strict=True))
    pixels = np.stack([decode_image(data["jpeg_test"][a:b].tobytes(), model.image) for a, b in bounds])
    features = []
    with torch.inference_mode():
        for batch in torch.from_numpy(pixels).split(250):
            features.append(model.encoder(batch, constant_level(0, model.depth)).numpy())
    predicted = (np.concatenate(features) @ model.head.weight.T + model.head.bias).argmax(axis=1)
    names = [str(name) for name in data["label_names"]]
    assert list(model.head.labels) == names
    assert (predicted == data["y_test"]).mean() >= 0.90


def test_the_shipped_images_are_whole() -> None:
    data = np.load(MODEL.parents[1] / "data/eurosat.npz", allow_pickle=False)
    assert len(data["y"]) == len(data["off"]) - 1 == 1500
    assert np.bincount(data["y"]).tolist() == [150] * 10
