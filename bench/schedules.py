"""Searched schedules beside constant r (ToMe), at the same measured latency: bench/results/schedules.json.

    python bench/schedules.py                           # all of the unseen images of ../shared/data
    python bench/schedules.py --samples 2000            # fewer test images
    python bench/schedules.py --levels -14 -10 -4 --output bench/results/schedules_more.json

The demo's compact ViT under two heads, EuroSAT's own and a linear probe for CIFAR-10. `schedule: search` chooses by
the fit part (the first 30 %) of both tasks' test images; accuracies are those of the others, and for CIFAR-10 of the
training images that the probe has not seen. `gain` is the paired difference to constant r in accuracy, with its 95 %
interval (normal approximation). Latency is that of ONNX Runtime, all levels of both kinds in turns, run by run; figures
are medians. `speed_up_over_flop_ratio` is what is left of the FLOPs that a list saves; 1.0 means that merging is free.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from live_tasks import COMPACT, DATA, write_part, write_project
from torch import Tensor
from torch.nn import functional as F

from elastriton.core.levels import TokenLevel, constant_level, flops
from elastriton.core.profile import Accuracy
from elastriton.generator.config import TaskConfig, load_config, resolve
from elastriton.generator.data import Labelled, label_numbers, load_data, read_data
from elastriton.generator.evaluate import image_pixels
from elastriton.generator.machine import this_machine
from elastriton.generator.prepare import task_head
from elastriton.generator.trials import searched, timer
from elastriton.runtime.models import VisionModel, load_vision

ROOT = Path(__file__).parents[1]
GAMMAS = (-20, -16, -12, -8)  # the demo's
BATCHES = (8, 32)
PROBED = 6000
"""Of the training images; EuroSAT's have trained the encoder, of CIFAR-10's the others are unseen."""


def main() -> None:
    """Search, judge both kinds on held-out images, time them in turns, write and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--build", type=Path, default=ROOT / "build/schedules")
    parser.add_argument("--samples", type=int, default=10**6, help="at most so many test images of a task")
    parser.add_argument("--levels", nargs="*", type=int, default=GAMMAS)
    parser.add_argument("--output", type=Path, default=ROOT / "bench/results/schedules.json")
    arguments = parser.parse_args()
    gammas = sorted(arguments.levels)
    config = load_config(write_project(arguments.build, arguments.data, replace(COMPACT, probed=PROBED)))
    encoder = config.encoders["vit"].model_copy(update={"levels": (*gammas, 0), "batches": BATCHES})
    tasks = {name: at_most(task, arguments.samples) for name, task in config.tasks.items()}
    model = load_vision(resolve(encoder.model, arguments.build))
    heads = {name: task_head(name, task, model.head, arguments.build) for name, task in tasks.items()}
    constants = [constant_level(gamma, model.depth) for gamma in gammas]
    found = searched("vit", constants, model, encoder, tasks, heads, arguments.build, announce)
    levels = [TokenLevel(0), *constants, *found]
    announce("\n".join(f"level {level.gamma}: {level.merge}" for level in found))
    rows: list[dict[str, Any]] = [
        {"schedule": schedule, **asdict(level)}
        for schedule, level in zip(
            ["plain"] + ["constant"] * len(gammas) + ["search"] * len(gammas), levels, strict=True
        )
    ]
    for row, times_ms in zip(rows, timer(model, encoder, announce)(levels), strict=True):
        row["ms"] = dict(zip(map(str, BATCHES), times_ms, strict=True))
    shape = (model.tokens, model.depth, model.width, model.encoder.vit.patch_embed.patch_size[0])
    for row, level in zip(rows, levels, strict=True):
        ratio = flops(levels[0], *shape) / flops(level, *shape)
        kept = {batch: rows[0]["ms"][batch] / own_ms / ratio for batch, own_ms in row["ms"].items()}
        row |= {"flop_ratio": ratio, "speed_up_over_flop_ratio": kept}
    for name, task in tasks.items():
        more = unseen(arguments.data, arguments.build) if name == "cifar10" else None
        pixels, numbers = held_out(task, heads[name][1], model, arguments.build, more)
        weight, bias = torch.from_numpy(heads[name][0].weight), torch.from_numpy(heads[name][0].bias)
        hits: dict[str, Tensor] = {}
        for row, level in zip(rows, levels, strict=True):
            with torch.inference_mode():
                logits = [F.linear(model.encoder(part, level), weight, bias) for part in pixels.split(50)]
            hits[f"{row['schedule']} {level.gamma}"] = own = torch.cat(logits).argmax(dim=1) == numbers
            row.setdefault("accuracy", {})[name] = asdict(Accuracy.of(level.gamma, int(own.sum()), len(numbers)))
            if row["schedule"] == "search":
                row.setdefault("gain", {})[name] = gain(own, hits[f"constant {level.gamma}"])
            announce(f"{name} {row['schedule']} {level.gamma}: {int(own.sum())} of {len(numbers)}")
    result = {"batches": BATCHES, "rows": rows, "machine": asdict(this_machine())}
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(rows))


def at_most(task: TaskConfig, samples: int) -> TaskConfig:
    """The task with at most so many of its test images; live_tasks.py leaves it half of them."""
    if task.data is None:
        raise SystemExit("the bench needs labelled data")
    return task.model_copy(update={"data": task.data.model_copy(update={"samples": samples})})


def unseen(data: Path, build: Path) -> Labelled:
    """The training images of CIFAR-10 behind the probe's."""
    write_part(data / "cifar10.npz", "train", build / "cifar10_train.npz")
    return read_data(build / "cifar10_train.npz").part(PROBED)


def held_out(
    task: TaskConfig, labels: tuple[str, ...], model: VisionModel, base: Path, more: Labelled | None
) -> tuple[Tensor, Tensor]:
    """The images behind the fit part, and `more`, as pixels [n, h, w, 3], and the numbers of their classes [n]."""
    assert task.data is not None
    data = load_data(base / task.data.path).part(0, task.data.samples)
    data = data.part(task.data.n_fit(len(data)))
    if more is not None:
        data = Labelled((*data.images, *more.images), (), data.labels + more.labels, data.names + more.names)
    pixels = np.stack(image_pixels(data, model.image))
    return torch.from_numpy(pixels), torch.from_numpy(label_numbers(data, labels))


def gain(own: Tensor, other: Tensor) -> dict[str, float]:
    """The mean difference of two outcomes [n] of the same images, with its 95 % interval."""
    difference = own.double() - other.double()
    mean, half = difference.mean().item(), 1.96 * difference.std().item() / len(difference) ** 0.5
    return {"mean": mean, "low": mean - half, "high": mean + half}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: one line for each level, constant and searched side by side, gains in points with their intervals."""
    lines = [
        "| γ | list | ms, batch 8 | ms, batch 32 | EuroSAT | gain | CIFAR-10 | gain |",
        "|---|---|---|---|---|---|---|---|",
    ]
    gammas = sorted({row["gamma"] for row in rows}, reverse=True)
    pairs = {gamma: [row for row in rows if row["gamma"] == gamma] for gamma in gammas}
    for gamma, sides in pairs.items():
        cells = [str(gamma), " → ".join(" ".join(map(str, row["merge"][:-1])) or "–" for row in sides)]
        cells += [" → ".join(f"{row['ms'][str(batch)]:.1f}" for row in sides) for batch in BATCHES]
        for name in sides[0]["accuracy"]:
            cells.append(" → ".join(f"{one['accuracy'][name]['accuracy']:.1%}" for one in sides))
            gains = [{key: 100 * value for key, value in row["gain"][name].items()} for row in sides if "gain" in row]
            cells.append("".join("{mean:+.1f} [{low:.1f}, {high:.1f}]".format(**one) for one in gains))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def announce(step: str) -> None:
    """Print a step as soon as it is reached."""
    print(step, flush=True)


if __name__ == "__main__":
    main()
