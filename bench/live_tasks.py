"""Two vision tasks on one encoder, for several benches: EuroSAT and CIFAR-10, on the demo's compact ViT or on CLIP.

Heads that an encoder does not bring are linear probes (bench/probe.py) on its frozen features. CIFAR-10 is far from
what the compact ViT was trained on: its accuracy is low, and meant to be. CLIP's ViT-B/16 takes a hundred times the
work, so that next to nothing of a request is spent outside of it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clip import write_clip
from probe import features, probe
from safetensors.torch import save_file

from elastriton.runtime.models import load_vision

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "examples/demo/models/eurosat-vit"
DATA = ROOT.parent / "shared/data/vision"


@dataclass(frozen=True)
class Encoder:
    """What to serve; how many images the probes, the profile, a saturating run and a calm one see; the loads."""

    levels: tuple[int, ...]  # prompts exist for EuroSAT alone, and peers want levels that all tasks have
    batches: tuple[int, ...]
    slo_ms: dict[str, float]
    probed: int
    profiled: int
    saturating: int
    warm_up: int
    loads: tuple[float, ...]  # x what level 0 keeps up with
    model: Path | None = None  # with a head for EuroSAT


COMPACT = Encoder(
    levels=(-20, -16, -12, -8, -4, 0),
    batches=(1, 2, 4, 8, 16, 32),
    slo_ms={"eurosat": 150.0, "cifar10": 300.0},
    probed=10_000,
    profiled=10**6,
    saturating=1000,
    warm_up=200,
    loads=(0.25, 0.35),
    model=MODEL,
)
CLIP = Encoder(
    levels=(-16, -12, -8, -4, 0),
    batches=(1, 2, 4, 8, 16),
    slo_ms={"eurosat": 1500.0, "cifar10": 3000.0},
    probed=1500,
    profiled=1000,
    saturating=48,
    warm_up=30,
    loads=(1.25,),
)
ENCODERS = {"compact": COMPACT, "clip": CLIP}


def write_project(folder: Path, data: Path = DATA, encoder: Encoder = COMPACT) -> Path:
    """Write elastriton.yaml (as JSON, which is YAML), the data and the probes into `folder`; return the configuration.

    Without `data` there is EuroSAT alone, on the images that ship with the demo, and only for the compact ViT.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if data.is_dir():
        model = encoder.model or _write_clip(folder / "clip")
        tasks = {name: _task(name, model, encoder, data, folder) for name in encoder.slo_ms}
    else:
        model = MODEL
        samples = {"path": str(MODEL.parents[1] / "data/eurosat.npz"), "samples": 750}
        tasks = {"eurosat": {"encoder": "vit", "slo_ms": encoder.slo_ms["eurosat"], "data": samples}}
    vit = {"kind": "vision", "model": str(model), "levels": encoder.levels, "batches": encoder.batches}
    config = {"version": 1, "seed": 0, "encoders": {"vit": vit}, "tasks": tasks}
    path = folder / "elastriton.yaml"
    path.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    return path


def write_part(source: Path, split: str, destination: Path) -> int:
    """Write the images of a split ("train", "test") as generator/data.py reads them; return how many there are."""
    data = np.load(source, allow_pickle=False)
    arrays = {name: data[f"{name}_{split}"] for name in ("jpeg", "off", "y")}
    np.savez(destination, **arrays, label_names=data["label_names"])
    return len(arrays["y"])


def _task(name: str, model: Path, encoder: Encoder, data: Path, folder: Path) -> dict[str, Any]:
    """The configuration of a task; its images and, where the model has no head for it, a probe go to `folder`."""
    samples = min(write_part(data / f"{name}.npz", "test", folder / f"{name}.npz") // 2, encoder.profiled)
    task: dict[str, Any] = {"encoder": "vit", "slo_ms": encoder.slo_ms[name]}
    if name != "eurosat" or encoder.model is None:
        source = np.load(data / f"{name}.npz", allow_pickle=False)
        head = f"{name}_head.safetensors"
        if not (folder / head).is_file():
            _train_probe(model, source, encoder.probed, folder / head)
        task |= {"head": head, "labels": [str(label) for label in source["label_names"]]}
    return task | {"data": {"path": f"{name}.npz", "samples": samples}}


def _train_probe(model: Path, data: Any, images: int, destination: Path) -> None:
    offsets = data["off_train"][: images + 1]
    read = features(load_vision(str(model)), data["jpeg_train"], offsets, batch=50)
    labels = torch.from_numpy(data["y_train"][: len(offsets) - 1].astype(np.int64))
    weight, bias = probe(read, labels, len(data["label_names"]))
    save_file({"weight": weight, "bias": bias}, destination)


def _write_clip(folder: Path) -> Path:
    if not folder.is_dir():
        write_clip(folder, [])
    return folder
