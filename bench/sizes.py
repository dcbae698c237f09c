"""Three resident ViT sizes beside one elastic encoder, for INFaaS: students of the demo's ViT, and one profile of all.

    python bench/sizes.py                                                # about ten minutes; needs ../shared
    python bench/policies.py --profile bench/results/sizes_profile.json --output bench/results/policies_measured.json

The students have every second and every third of the demo's six blocks and imitate its logits on EuroSAT (Sanh et al.,
2019). All three sizes and the levels of the largest are profiled in one run; the first encoder is the elastic one. What
was measured is kept in bench/results/sizes_profile.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from live_tasks import DATA, MODEL, ROOT, write_part
from vit_training import train, train_set, write_vit

from elastriton.generator.config import load_config
from elastriton.generator.profiler import profile
from elastriton.generator.show import steps
from elastriton.runtime.models import load_vision

LEVELS = (-20, -16, -14, -12, -10, -8, -4, 0)
BATCHES = (1, 2, 4, 8, 16, 32)
STRIDES = {"half": 2, "third": 3}


def make_student(folder: Path, stride: int, data: Any, minutes: float) -> None:
    """Every `stride`-th block of the demo's ViT, up to the last, trained by distillation."""
    config = json.loads((MODEL / "config.json").read_text())
    vit: Any = timm.create_model(f"local-dir:{MODEL}", pretrained=True).eval()
    pixels, y = train_set(data, load_vision(str(MODEL)).image)
    with torch.inference_mode():
        teacher = torch.cat([vit(part.float()) for part in pixels.split(250)]).clone()
    vit.blocks = torch.nn.Sequential(*list(vit.blocks)[stride - 1 :: stride])
    config["model_args"]["depth"] = len(vit.blocks)
    train(vit, pixels, y, minutes, teacher)
    write_vit(folder, vit, config)


def main() -> None:
    """Train the students that are missing and profile all sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "build/sizes")
    parser.add_argument("--max-minutes", type=float, default=6.0, help="of processor time per student")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--students", action="store_true", help="train them and stop")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    data = np.load(DATA / "eurosat.npz", allow_pickle=False)
    args.out.mkdir(parents=True, exist_ok=True)
    models = {"whole": MODEL} | {name: args.out / name for name in STRIDES}
    for name, stride in STRIDES.items():
        if not models[name].exists():
            make_student(models[name], stride, data, args.max_minutes)
    if args.students:
        return
    samples = write_part(DATA / "eurosat.npz", "test", args.out / "eurosat.npz")
    config = {
        "version": 1,
        "encoders": {
            name: {"kind": "vision", "model": str(path), "batches": BATCHES, "levels": LEVELS if path == MODEL else [0]}
            for name, path in models.items()
        },
        "tasks": {
            f"eurosat_{name}": {
                "encoder": name,
                "slo_ms": 150,
                "data": {"path": "eurosat.npz", "samples": samples, "fit_share": 0.1},
            }
            for name in models
        },
    }
    path = args.out / "elastriton.yaml"
    path.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    output = args.out / "build"
    output.mkdir(exist_ok=True)
    with steps("profile of three sizes") as advance:
        profile(load_config(path), args.out, output, budget_s=0.5, advance=advance)
    measured = (output / "profile.json").read_text(encoding="utf-8").replace(f"{ROOT}/", "")
    (ROOT / "bench/results/sizes_profile.json").write_text(measured, encoding="utf-8")


if __name__ == "__main__":
    main()
