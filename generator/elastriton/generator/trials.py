"""What a search for schedules asks: how far a level moves the answers to the tasks' data, and the time levels take."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from elastriton.core.errors import ConfigError
from elastriton.core.levels import TokenLevel
from elastriton.generator.config import EncoderConfig, TaskConfig
from elastriton.generator.data import load_data
from elastriton.generator.evaluate import image_pixels
from elastriton.generator.export import export_vision
from elastriton.generator.measure import Advance, latency
from elastriton.generator.schedules import Cost, Judge, Timer, search
from elastriton.runtime.executor import ElasticExecutor
from elastriton.runtime.heads import TaskHead
from elastriton.runtime.models import VisionModel
from elastriton.runtime.onnx_encoder import OnnxEncoder

MOST_SAMPLES = 600
CHUNK = 50
CELL_S = 2.0
LARGE_BATCH = 8

Heads = dict[str, tuple[TaskHead, tuple[str, ...]]]


@dataclass(frozen=True)
class FitPart:
    """One task's samples that things may be chosen by, and its head."""

    pixels: Tensor
    weight: Tensor
    bias: Tensor


def searched(
    name: str,
    levels: Sequence[TokenLevel],
    model: VisionModel,
    encoder: EncoderConfig,
    tasks: dict[str, TaskConfig],
    heads: Heads,
    base: Path,
    advance: Advance,
) -> tuple[TokenLevel, ...]:
    """The levels of an encoder with the schedules of its merging ones searched for. Raises ConfigError without data."""
    constants = [level for level in levels if level.gamma < 0]
    parts = [
        fit_part(task_name, task, heads[task_name][0], model, base)
        for task_name, task in tasks.items()
        if task.data is not None and task.objective == "classification"
    ]
    if not parts:
        raise ConfigError(f"encoder {name} has `schedule: search`, but none of its tasks has `data` to choose by")
    patch = model.encoder.vit.patch_embed.patch_size[0]
    cost = Cost(model.tokens, model.depth, model.width, patch, model.encoder.prefix)
    best = search(constants, cost, judge(model, parts), timer(model, encoder, advance), advance)
    return (*best, *(level for level in levels if level.gamma >= 0))


def fit_part(name: str, task: TaskConfig, head: TaskHead, model: VisionModel, base: Path) -> FitPart:
    """The first samples of the fit part of a task's data, at most 600."""
    if task.data is None:
        raise ConfigError(f"task {name} has no `data`")
    data = load_data(base / task.data.path).part(0, task.data.samples)
    data = data.part(0, min(task.data.n_fit(len(data)), MOST_SAMPLES))
    pixels = np.stack(image_pixels(data, model.image))
    return FitPart(*(torch.from_numpy(array) for array in (pixels, head.weight, head.bias)))


def judge(model: VisionModel, parts: Sequence[FitPart]) -> Judge:
    """Each task's mean Kullback-Leibler divergence from the plain level, in eager torch; each is computed once."""

    @torch.inference_mode()
    def answers(part: FitPart, level: TokenLevel, every: int) -> Tensor:
        features = [model.encoder(pixels, level) for pixels in part.pixels[::every].split(CHUNK)]
        return F.linear(torch.cat(features), part.weight, part.bias).log_softmax(-1)

    plain = [answers(part, TokenLevel(0), 1) for part in parts]

    @cache
    def divergences(level: TokenLevel, every: int) -> tuple[float, ...]:
        pairs = zip((answers(part, level, every) for part in parts), plain, strict=True)
        return tuple(
            F.kl_div(own, other[::every], log_target=True, reduction="batchmean").item() for own, other in pairs
        )

    return divergences


def timer(model: VisionModel, encoder: EncoderConfig, advance: Advance) -> Timer:
    """Exports levels into a scratch folder and times them in turns, at the smallest batch from 8 up and the largest."""
    large = [batch for batch in encoder.batches if batch >= LARGE_BATCH] or encoder.batches
    batches = sorted({min(large), max(large)})
    head = TaskHead("none", np.zeros((1, model.width), np.float32), np.zeros(1, np.float32))

    def times_ms(levels: Sequence[TokenLevel]) -> list[tuple[float, ...]]:
        numbered = [replace(level, gamma=-number) if level.gamma else level for number, level in enumerate(levels, 1)]
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            export_vision(model.encoder, tuple(numbered), (model.image.height, model.image.width), 1, folder)
            session = OnnxEncoder(folder, [level.gamma for level in numbered])
            executor = ElasticExecutor(session, {head.task: head}, numbered, max(batches))
            cells = latency(
                executor, head.task, model.image, (model.tokens,), batches, budget_s=CELL_S, advance=advance
            )
        return [tuple(cell.p50_ms for cell in cells if cell.gamma == level.gamma) for level in numbered]

    return times_ms
