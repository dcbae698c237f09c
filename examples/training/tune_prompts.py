"""Tune prompts for the demo's Vision Transformer: VPT-deep (Jia et al., 2022), nested, encoder and head frozen.

One run gives prompts of every length: each step uses the first 2, 4 or 8 of the 8 prompts per layer (nested dropout,
Rippel et al., 2014; as in matryoshka representations, Kusupati et al., 2022). Prompts stand behind CLS and are replaced
before each block. The loss is that of the encoder's own training (labels and the teacher's logits). The 500
training images that train_eurosat_vit.py held out are held out here too.

Run from the repository root, behind train_eurosat_vit.py with the same --scratch:
  python examples/training/tune_prompts.py --data ../shared/data --scratch /work/tmp/train
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
from common import augment_bytes, decode_eurosat, hold_out, score, update_json
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from elastriton.core.levels import constant_level
from elastriton.runtime.vit import ElasticViT

GAMMAS = (2, 4, 8)
TEMPERATURE = 2.0


class Prompted:
    """The serving forward (elastriton.runtime.vit) of a timm model, with its own head."""

    def __init__(self, folder: Path) -> None:
        model: Any = timm.create_model(f"local-dir:{folder.resolve()}", pretrained=True).eval().requires_grad_(False)
        data = timm.data.resolve_model_data_config(model)
        self.encoder, self.head = ElasticViT(model, data["mean"], data["std"]), model.head
        self.depth, self.width, self.patch = len(model.blocks), model.embed_dim, model.patch_embed.patch_size[0]

    def __call__(self, images: Tensor, prompts: Tensor) -> Tensor:
        """Logits for uint8 images [b, 3, h, w] with prompts [depth, gamma, width]; gamma may be 0."""
        level = constant_level(prompts.shape[1], self.depth)
        batched = prompts.expand(len(images), *prompts.shape) if prompts.shape[1] else None
        logits: Tensor = self.head(self.encoder(images.permute(0, 2, 3, 1), level, batched))
        return logits


@torch.inference_mode()
def accuracies(model: Prompted, prompts: Tensor, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """The score at gamma 0 and at each prompt length."""
    result = {}
    for gamma in (0, *GAMMAS):
        logits = torch.cat([model(part, prompts[:, :gamma]) for part in images.split(250)])
        result[str(gamma)] = score(logits, labels)
    return result


def tune(model: Prompted, x: Tensor, y: Tensor, soft: Tensor, args: Any) -> tuple[Tensor, int]:
    """Train the prompts for at most --epochs and --max-minutes; returns them and the steps taken."""
    v = math.sqrt(6 / (3 * model.patch**2 + model.width))
    prompts = torch.empty(model.depth, max(GAMMAS), model.width).uniform_(-v, v).requires_grad_()
    optimiser = torch.optim.AdamW([prompts], lr=args.lr, weight_decay=0.0)
    per_epoch, start, total, count = len(x) // args.batch, time.time(), 0.0, 0
    for epoch in range(args.epochs):
        for step, index in enumerate(torch.randperm(len(x))[: per_epoch * args.batch].split(args.batch)):
            elapsed = (time.time() - start) / (60 * args.max_minutes)
            done = max((epoch + step / per_epoch) / args.epochs, elapsed)
            if done >= 1:
                return prompts.detach(), count
            optimiser.param_groups[0]["lr"] = args.lr * min(1.0, (count + 1) / 20) * math.cos(math.pi / 2 * done) ** 2
            gamma = GAMMAS[int(torch.randint(0, len(GAMMAS), ()))]
            logits = model(augment_bytes(x[index]), prompts[:, :gamma])
            target = functional.softmax(soft[index] / TEMPERATURE, 1)
            distilled = -(target * functional.log_softmax(logits / TEMPERATURE, 1)).sum(1).mean() * TEMPERATURE**2
            loss = 0.5 * functional.cross_entropy(logits, y[index], label_smoothing=0.1) + 0.5 * distilled
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total, count = total + loss.item(), count + 1
            if count % 25 == 0:
                print(f"step {count} loss {total / 25:.4f} {time.time() - start:.0f} s", flush=True)
                total = 0.0
    return prompts.detach(), count


def main() -> None:
    """Tune, write the prompts as fp16, and record the accuracy with each number of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--model", type=Path, default=Path("examples/demo/models/eurosat-vit"))
    parser.add_argument("--scratch", type=Path, default=Path("/tmp/elastriton-train"))
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--max-minutes", type=float, default=6.0, help="safety: the schedule shortens to fit this")
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    source = args.data / "vision/eurosat.npz"
    images, labels, _ = decode_eurosat(source, "train")
    kept, held = hold_out(len(images), 500, args.seed)
    soft = load_file(args.scratch / "soft.safetensors")["soft"]
    model, start = Prompted(args.model), time.time()
    torch.manual_seed(args.seed)
    prompts, steps = tune(model, images[kept], labels[kept], soft, args)
    seconds = round(time.time() - start)
    save_file({"prompts": prompts.half().contiguous()}, args.model / "prompts.safetensors")
    prompts = load_file(args.model / "prompts.safetensors")["prompts"].float()
    held_out = accuracies(model, prompts, images[held], labels[held])
    print("held out", json.dumps(held_out), flush=True)
    test_images, test_labels, _ = decode_eurosat(source, "test")
    test = accuracies(model, prompts, test_images, test_labels)
    print("test", json.dumps(test), flush=True)
    notes = {"test_by_gamma": test, "held_out_by_gamma": held_out, "steps": steps, "batch": args.batch}
    notes |= {"learning_rate": args.lr, "seed": args.seed, "seconds": seconds, "trained_lengths": list(GAMMAS)}
    update_json(args.model / "training.json", {"prompts": notes})


if __name__ == "__main__":
    main()
