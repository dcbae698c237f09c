"""A linear probe on a frozen vision encoder: multinomial logistic regression, full batch, L-BFGS with weight decay."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from elastriton.core.levels import constant_level
from elastriton.runtime.images import decode_image
from elastriton.runtime.models import VisionModel

WEIGHT_DECAY = 1e-3


def features(model: VisionModel, jpeg: NDArray[np.uint8], offsets: NDArray[np.int64], batch: int = 250) -> torch.Tensor:
    """What the head reads [n, width], of the images jpeg[offsets[i] : offsets[i + 1]]."""
    level = constant_level(0, model.depth)
    parts = []
    with torch.inference_mode():
        for start in range(0, len(offsets) - 1, batch):
            bounds = zip(offsets[start : start + batch], offsets[start + 1 : start + batch + 1], strict=False)
            pixels = np.stack([decode_image(jpeg[a:b].tobytes(), model.image) for a, b in bounds])
            parts.append(model.encoder(torch.from_numpy(pixels), level))
    return torch.cat(parts).clone()


def probe(features: torch.Tensor, labels: torch.Tensor, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight [classes, width] and bias [classes], fitted to standardised features."""
    torch.manual_seed(0)
    centre, spread = features.mean(0), features.std(0) + 1e-6
    head = torch.nn.Linear(features.shape[1], classes)
    optimiser = torch.optim.LBFGS(head.parameters(), max_iter=300, line_search_fn="strong_wolfe")
    scaled = (features - centre) / spread

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = torch.nn.functional.cross_entropy(head(scaled), labels) + WEIGHT_DECAY * head.weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    weight = head.weight.detach() / spread
    return weight.contiguous(), (head.bias.detach() - weight @ centre).contiguous()
