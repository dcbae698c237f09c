"""Short training of compact Vision Transformers for benches: labels, a teacher's logits, dropped patches, flips."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from distillation import distilled
from safetensors.torch import save_file
from timm.layers import PatchDropout
from torch import Tensor, nn
from torch.nn import functional

from elastriton.core.profile import ImageSpec
from elastriton.runtime.images import decode_image

BATCH, LR, HEAD_LR, WARM_UP = 64, 5e-4, 3e-3, 0.05
SPARSE = 0.7  # of the time, in which half of the patches are dropped (Liu et al., 2023)


def train_set(data: Any, image: ImageSpec) -> tuple[Tensor, Tensor]:
    """Pixels [n, 3, height, width] in half precision, scaled to [-1, 1], and classes [n], of the training images."""
    offsets, blob = data["off_train"].tolist(), data["jpeg_train"].tobytes()
    decoded = np.stack([decode_image(blob[a:b], image) for a, b in itertools.pairwise(offsets)])
    pixels = torch.from_numpy(decoded).permute(0, 3, 1, 2).half() / 127.5 - 1.0
    return pixels, torch.from_numpy(data["y_train"].astype(np.int64))


def train(vit: Any, pixels: Tensor, y: Tensor, minutes: float, teacher: Tensor | None = None) -> None:
    """Train for `minutes` of processor time; `teacher` are logits [n, classes] to imitate."""
    body = [p for name, p in vit.named_parameters() if not name.startswith("head")]
    groups = [{"params": body, "peak": LR}, {"params": list(vit.head.parameters()), "peak": HEAD_LR}]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.05)
    vit.train()
    start, done, steps = time.process_time(), 0.0, 0
    while done < 1.0:
        vit.patch_drop = PatchDropout(0.5) if done < SPARSE else nn.Identity()
        for index in torch.randperm(len(pixels)).split(BATCH):
            done = (time.process_time() - start) / (60 * minutes)
            if done >= 1.0:
                break
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * min(1.0, done / WARM_UP) * (1.0 - done)
            batch = pixels[index].float()
            logits = vit(batch.flip(3) if torch.rand(()) < 0.5 else batch)
            value = functional.cross_entropy(logits, y[index], label_smoothing=0.1 if teacher is None else 0.0)
            if teacher is not None:
                value = distilled(value, logits, teacher[index])
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
            steps += 1
        print(f"  step {steps}: loss {value.detach():.3f}, {done:.0%} of the time", flush=True)
    vit.patch_drop = nn.Identity()
    vit.eval()


def write_vit(folder: Path, vit: nn.Module, config: dict[str, Any]) -> None:
    """A local folder as timm reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in vit.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
