"""What the training scripts share: EuroSAT as arrays, augmentation, evaluation, intervals and provenance."""

from __future__ import annotations

import io
import itertools
import json
import math
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def decode_eurosat(archive_path: Path, split: str) -> tuple[Tensor, Tensor, list[str]]:
    """Decode a split ("train" or "test") to uint8 images [N, 3, 64, 64], labels [N] and class names."""
    with np.load(archive_path, allow_pickle=False) as z:
        stream, offsets = z[f"jpeg_{split}"], z[f"off_{split}"]
        labels, names = z[f"y_{split}"], [str(n) for n in z["label_names"]]
    spans = itertools.pairwise(offsets)
    images = np.stack([np.asarray(Image.open(io.BytesIO(stream[a:b].tobytes())).convert("RGB")) for a, b in spans])
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels).long(), names


def hold_out(count: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Split range(count) into a training part and a held-out part of `size`, by seed."""
    order = torch.from_numpy(np.random.RandomState(seed).permutation(count))
    return order[size:], order[:size]


def normalise(images: Tensor) -> Tensor:
    """uint8 to float with mean 0.5 and standard deviation 0.5 (timm's default for ViT)."""
    return images.float().div_(127.5).sub_(1.0)


def dihedral(images: Tensor, view: int) -> Tensor:
    """One of the 8 symmetries of the square; satellite images have no preferred orientation."""
    turned = torch.rot90(images, view % 4, (2, 3))
    return turned.flip(3) if view >= 4 else turned


def augment_bytes(images: Tensor, shift: int = 4) -> Tensor:
    """A random dihedral view of each uint8 image, moved by up to `shift` pixels (mirrored at the border)."""
    count, _, height, width = images.shape
    views = torch.randint(0, 8, (count,))
    turned = torch.empty_like(images)
    for view in range(8):
        turned[views == view] = dihedral(images[views == view], view)
    rows = (torch.randint(-shift, shift + 1, (count, 1)) + torch.arange(height)).abs()
    columns = (torch.randint(-shift, shift + 1, (count, 1)) + torch.arange(width)).abs()
    rows, columns = torch.minimum(rows, 2 * height - 2 - rows), torch.minimum(columns, 2 * width - 2 - columns)
    batch = torch.arange(count)[:, None, None]
    return turned[batch, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def augment(images: Tensor) -> Tensor:
    """`augment_bytes`, normalised."""
    return normalise(augment_bytes(images))


@torch.inference_mode()
def predict(forward: Callable[[Tensor], Tensor], images: Tensor, batch: int = 250) -> Tensor:
    """Logits of `forward` for uint8 images."""
    return torch.cat([forward(normalise(part)) for part in images.split(batch)])


def wilson(correct: int, total: int, z: float = 1.959964) -> list[float]:
    """The 95 % Wilson score interval of a proportion (Wilson, 1927)."""
    p, zz = correct / total, z * z / total
    centre, half = p + zz / 2, z * math.sqrt(p * (1 - p) / total + zz / (4 * total))
    return [round((centre - half) / (1 + zz), 4), round((centre + half) / (1 + zz), 4)]


def score(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Accuracy with its counts and interval."""
    correct = int((logits.argmax(1) == labels).sum())
    return {
        "accuracy": round(correct / len(labels), 4),
        "correct": correct,
        "total": len(labels),
        "wilson95": wilson(correct, len(labels)),
    }


def provenance(**packages: str) -> dict[str, Any]:
    """The versions and the machine that a figure belongs to."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = {line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name")}
    return {
        "versions": {"python": platform.python_version(), "torch": torch.__version__, **packages},
        "hardware": f"{os.cpu_count()} CPU cores ({', '.join(sorted(names)) or platform.machine()}), shared, no GPU",
        "threads": torch.get_num_threads(),
    }


def update_json(path: Path, entries: dict[str, Any]) -> None:
    """Add `entries` to a JSON file, keeping what else it holds."""
    document = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(document | entries, indent=2) + "\n")
