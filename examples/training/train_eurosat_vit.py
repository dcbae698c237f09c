"""Train the compact Vision Transformer of the demo on EuroSAT, on a CPU, in under an hour.

The model is a stock timm VisionTransformer (64x64 input, 8x8 patches, width 192, 6 layers, CLS token). What makes so
short a training do:
- a small residual CNN teacher (He et al., 2016) is trained first and distilled (Hinton et al., 2015; Touvron et al.,
  2021); its logits are averaged once over the 8 dihedral views, as the classes do not depend on orientation;
- mimetic initialisation of attention (Trockman & Kolter, 2023), sinusoidal position embedding (Vaswani et al., 2017)
  and a PCA-whitening patch embedding (Coates & Ng, 2012);
- 3/4, then half of the patches are dropped at random, but none in the last epochs (Liu et al., 2023, "PatchDropout");
- Muon (Jordan et al., 2024) for the matrices of the blocks, AdamW for the rest, warm-up and cosine decay.
Choices are made on 500 held-out training images; the test set is used once, for the figure in training.json.

Run from the repository root:
  python examples/training/train_eurosat_vit.py --data ../shared/data --scratch /work/tmp/train --epochs 30
A killed run goes on from its last epoch when started again with the same --scratch.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import timm
import torch
from common import augment, decode_eurosat, hold_out, predict, provenance, score, update_json
from eurosat_teacher import make_teacher, teacher_logits, train_teacher
from muon import Muon
from safetensors.torch import load_file, save_file
from timm.layers import PatchDropout
from torch import Tensor, nn
from torch.nn import functional
from vit_init import initialise

ARCHITECTURE = "vit_tiny_patch16_224"
MODEL_ARGS = {"img_size": 64, "patch_size": 8, "embed_dim": 192, "depth": 6, "num_heads": 3}
TEMPERATURE = 2.0


def make_optimisers(model: Any, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for everything else."""
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [Muon(matrices, lr), torch.optim.AdamW(rest, lr=lr, weight_decay=0.0)]


def patch_dropout(epoch: int, hurry: bool, args: Any) -> nn.Module:
    """Drop 3/4 of the patches at first, then half of them, and none in the last epochs (or when time runs out)."""
    if hurry or epoch >= args.epochs - args.full_epochs:
        return nn.Identity()
    dropout: nn.Module = PatchDropout(0.75 if epoch < args.sparse_epochs else 0.5)
    return dropout


def train_vit(model: Any, data: tuple[Tensor, ...], held: tuple[Tensor, Tensor], args: Any) -> dict[str, Any]:
    """Train by distillation, in a shorter schedule if --max-minutes would be passed; returns epochs and seconds."""
    x, y, soft = data
    optimisers = make_optimisers(model, args.lr)
    saved, first, spent = args.scratch / "vit.pt", 0, 0.0
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        model.load_state_dict(state["model"])
        for optimiser, entry in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(entry)
        first, spent = state["epoch"], state["spent"]
    start, steps = time.time() - spent, len(x) // args.batch
    for epoch in range(first, args.epochs):
        total = 0.0
        torch.manual_seed(1000 * args.seed + epoch)
        model.patch_drop = patch_dropout(epoch, time.time() - start > 0.86 * 60 * args.max_minutes, args)
        model.train()
        for step, index in enumerate(torch.randperm(len(x))[: steps * args.batch].split(args.batch)):
            done = max((epoch + step / steps) / args.epochs, (time.time() - start) / (60 * args.max_minutes))
            factor = min(1.0, (epoch * steps + step + 1) / args.warmup) * (
                0.01 + math.cos(math.pi / 2 * min(done, 1)) ** 2
            )
            for optimiser in optimisers:
                for group in optimiser.param_groups:
                    group["lr"] = args.lr * factor
            logits = model(augment(x[index]))
            target = functional.softmax(soft[index] / TEMPERATURE, 1)
            distilled = -(target * functional.log_softmax(logits / TEMPERATURE, 1)).sum(1).mean() * TEMPERATURE**2
            loss = 0.5 * functional.cross_entropy(logits, y[index], label_smoothing=0.1) + 0.5 * distilled
            model.zero_grad()
            loss.backward()
            for optimiser in optimisers:
                optimiser.step()
            total += loss.item()
        model.eval()
        spent = time.time() - start
        accuracy = score(predict(model, held[0]), held[1])["accuracy"]
        print(f"vit {epoch + 1}/{args.epochs} loss {total / steps:.4f} held {accuracy} {spent:.0f} s", flush=True)
        state = {"model": model.state_dict(), "optimisers": [o.state_dict() for o in optimisers]}
        torch.save(state | {"epoch": epoch + 1, "spent": spent}, saved.with_suffix(".new"))
        saved.with_suffix(".new").replace(saved)
        first = epoch + 1
        if spent > 60 * args.max_minutes:
            break
    return {"epochs": first, "seconds": round(spent)}


def export(model: Any, names: list[str], folder: Path) -> None:
    """Write the fp16 weights and the configuration that timm loads with 'local-dir:'."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.detach().half().contiguous() for k, v in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    data = {k: v for k, v in timm.data.resolve_model_data_config(model).items() if k != "crop_mode"}
    data |= {"input_size": [3, 64, 64], "crop_pct": 1.0, "interpolation": "bicubic"}
    pretrained = data | {"num_classes": len(names), "label_names": names, "classifier": "head"}
    config = {"architecture": ARCHITECTURE, "num_classes": len(names), "num_features": model.num_features}
    config |= {"global_pool": "token", "model_args": MODEL_ARGS, "pretrained_cfg": pretrained}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    """Train the teacher and the transformer, export the transformer, and record its accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("examples/demo/models/eurosat-vit"))
    parser.add_argument("--scratch", type=Path, default=Path("/tmp/elastriton-train"))
    parser.add_argument("--teacher-epochs", type=int, default=9)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--full-epochs", type=int, default=1, help="last epochs, that see all patches")
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--warmup", type=int, default=200, help="steps")
    parser.add_argument("--max-minutes", type=float, default=50.0, help="safety: the schedule shortens to fit this")
    parser.add_argument("--sparse-epochs", type=int, default=27, help="first epochs, that see a quarter of the patches")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.scratch.mkdir(parents=True, exist_ok=True)
    source = args.data / "vision/eurosat.npz"
    images, labels, names = decode_eurosat(source, "train")
    kept, held = hold_out(len(images), 500, args.seed)
    x, y = images[kept], labels[kept]
    stored, weights = args.scratch / "teacher.json", args.scratch / "teacher.safetensors"
    teacher = make_teacher(len(names))
    if not weights.exists():
        start = time.time()
        teacher = train_teacher(x, y, len(names), args.teacher_epochs)
        save_file({k: v.contiguous() for k, v in teacher.state_dict().items()}, weights)
        note = {"held_out": score(teacher_logits(teacher, images[held]), labels[held]), "epochs": args.teacher_epochs}
        stored.write_text(json.dumps(note | {"seconds": round(time.time() - start)}))
        save_file({"soft": teacher_logits(teacher, x)}, args.scratch / "soft.safetensors")
    teacher.load_state_dict(load_file(weights))
    soft = load_file(args.scratch / "soft.safetensors")["soft"]
    print("teacher:", stored.read_text(), flush=True)
    model = timm.create_model(ARCHITECTURE, num_classes=len(names), **MODEL_ARGS)
    initialise(model, x)
    taken = train_vit(model, (x, y, soft), (images[held], labels[held]), args)
    export(model, names, args.out)
    loaded = timm.create_model(f"local-dir:{args.out.resolve()}", pretrained=True).eval()
    test_images, test_labels, _ = decode_eurosat(source, "test")
    result = score(predict(loaded, test_images), test_labels)
    teacher_notes = json.loads(stored.read_text())
    teacher_notes["test_one_view"] = score(predict(teacher.eval(), test_images), test_labels)
    teacher_notes["test_8_views"] = score(teacher_logits(teacher, test_images), test_labels)
    notes: dict[str, Any] = {
        "data": "EuroSAT RGB, 3,500 test images",
        "test": result,
        "weights": "fp16 file, run in fp32",
    }
    notes |= {"held_out": score(predict(loaded, images[held]), labels[held]), "teacher": teacher_notes}
    notes |= {"training_images": len(x), "planned_epochs": args.epochs, "sparse_epochs": args.sparse_epochs}
    notes |= {"full_epochs": args.full_epochs, "batch": args.batch, "learning_rate": args.lr, "seed": args.seed}
    update_json(args.out / "training.json", notes | taken | provenance(timm=timm.__version__))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
