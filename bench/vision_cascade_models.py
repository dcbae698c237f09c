"""A vision cascade for bench/cascades.py: the compact ViT in front of CLIP ViT-B/16, both on CIFAR-10.

    python bench/vision_cascade_models.py --out build/cascades

writes <out>/data/cifar10.npz and timm folders <out>/models/cifar10-large and cifar10-small. "large" is the image tower
of CLIP ViT-B/16 (clip.py) under a linear probe on its CLS token, "small" the demo's compact ViT, trained on with
CIFAR-10's images and labels, half of its patches dropped (Liu et al., 2023).
For benchmarks only: neither data nor weights may be shipped (../shared/data/MANIFEST.md).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from clip import write_clip
from live_tasks import DATA, MODEL, ROOT, write_part
from probe import features, probe
from vit_training import train, train_set, write_vit

from elastriton.runtime.models import load_vision


def make_large(folder: Path, data: Any, images: int) -> None:
    """CLIP with a linear probe on the first `images` of the training images."""
    names = [str(name) for name in data["label_names"]]
    write_clip(folder, names)
    read = features(load_vision(str(folder)), data["jpeg_train"], data["off_train"][: images + 1], batch=16)
    write_clip(folder, names, *probe(read, torch.from_numpy(data["y_train"][:images].astype(np.int64)), 10))


def make_small(folder: Path, data: Any, minutes: float) -> None:
    """The compact ViT, trained on for `minutes` of processor time."""
    config = json.loads((MODEL / "config.json").read_text())
    config["pretrained_cfg"]["label_names"] = [str(name) for name in data["label_names"]]
    vit: Any = timm.create_model(f"local-dir:{MODEL}", pretrained=True)
    vit.reset_classifier(10)
    train(vit, *train_set(data, load_vision(str(MODEL)).image), minutes)
    write_vit(folder, vit, config)


def accuracy(folder: Path, data: Any, images: int) -> float:
    """On the first `images` of the test images."""
    model = load_vision(str(folder))
    assert model.head is not None
    read = features(model, data["jpeg_test"], data["off_test"][: images + 1], batch=50).numpy()
    return float(((read @ model.head.weight.T + model.head.bias).argmax(1) == data["y_test"][:images]).mean())


def main() -> None:
    """Make what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "build/cascades")
    parser.add_argument("--probed", type=int, default=1000, help="training images of the probe")
    parser.add_argument("--max-minutes", type=float, default=12.0, help="of processor time for the small model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    data = np.load(DATA / "cifar10.npz", allow_pickle=False)
    (args.out / "data").mkdir(parents=True, exist_ok=True)
    write_part(DATA / "cifar10.npz", "test", args.out / "data/cifar10.npz")
    small, large = args.out / "models/cifar10-small", args.out / "models/cifar10-large"
    if not small.exists():
        make_small(small, data, args.max_minutes)
        print(f"cifar10-small: accuracy {accuracy(small, data, 2000):.4f} on 2000 test images", flush=True)
    if not large.exists():
        make_large(large, data, args.probed)
        print(f"cifar10-large: accuracy {accuracy(large, data, 100):.4f} on 100 test images", flush=True)


if __name__ == "__main__":
    main()
