"""Two vision tasks on the demo's compact ViT, for several benches: EuroSAT, and CIFAR-10 with a linear probe.

The probe (bench/probe.py) reads the frozen encoder's features of 10,000 training images. CIFAR-10 is far from what the
encoder was trained on: its accuracy is low, and meant to be.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from probe import features, probe
from safetensors.torch import save_file

from elastriton.runtime.models import load_vision

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "examples/demo/models/eurosat-vit"
DATA = ROOT.parent / "shared/data/vision"
LEVELS = (-20, -16, -12, -8, -4, 0)  # prompts exist for EuroSAT alone, and peers want levels that all tasks have
SLO_MS = {"eurosat": 150.0, "cifar10": 300.0}


def write_project(folder: Path, data: Path = DATA) -> Path:
    """Write elastriton.yaml (as JSON, which is YAML), the data and the probe into `folder`; return the configuration.

    Without `data` there is EuroSAT alone, on the images that ship with the demo.
    """
    folder.mkdir(parents=True, exist_ok=True)
    encoder = {"kind": "vision", "model": str(MODEL), "levels": LEVELS, "batches": [1, 2, 4, 8, 16, 32]}
    eurosat: dict[str, Any] = {"encoder": "vit", "slo_ms": SLO_MS["eurosat"]}
    tasks = {"eurosat": eurosat}
    if data.is_dir():
        eurosat_samples = write_part(data / "eurosat.npz", "test", folder / "eurosat.npz")
        eurosat["data"] = {"path": "eurosat.npz", "samples": eurosat_samples // 2}
        if not (folder / "cifar10_head.safetensors").is_file():
            _train_probe(np.load(data / "cifar10.npz", allow_pickle=False), folder / "cifar10_head.safetensors")
        cifar_samples = write_part(data / "cifar10.npz", "test", folder / "cifar10.npz")
        names = np.load(data / "cifar10.npz", allow_pickle=False)["label_names"]
        tasks["cifar10"] = {
            "encoder": "vit",
            "head": "cifar10_head.safetensors",
            "labels": [str(name) for name in names],
            "slo_ms": SLO_MS["cifar10"],
            "data": {"path": "cifar10.npz", "samples": cifar_samples // 2},
        }
    else:
        eurosat["data"] = {"path": str(MODEL.parents[1] / "data/eurosat.npz"), "samples": 750}
    config = {"version": 1, "seed": 0, "encoders": {"vit": encoder}, "tasks": tasks}
    path = folder / "elastriton.yaml"
    path.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    return path


def write_part(source: Path, split: str, destination: Path) -> int:
    """Write the images of a split ("train", "test") as generator/data.py reads them; return how many there are."""
    data = np.load(source, allow_pickle=False)
    arrays = {name: data[f"{name}_{split}"] for name in ("jpeg", "off", "y")}
    np.savez(destination, **arrays, label_names=data["label_names"])
    return len(arrays["y"])


def _train_probe(data: Any, destination: Path) -> None:
    model = load_vision(str(MODEL))
    labels = torch.from_numpy(data["y_train"].astype(np.int64))
    read = features(model, data["jpeg_train"], data["off_train"])
    weight, bias = probe(read, labels, len(data["label_names"]))
    save_file({"weight": weight, "bias": bias}, destination)
