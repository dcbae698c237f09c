"""The served path of gpu.py: profile, plan, generate and serve with runtime torch, and what is left of the throughput.

tritonserver starts its stub processes in this interpreter's environment: its torch must be one with CUDA.
"""

from __future__ import annotations

import io
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from gpu_models import LABELS, Shape, save
from overhead import take_turns
from PIL import Image
from spread import ratios, spread

from elastriton.client import Client
from elastriton.core.plan import LevelAccuracy, Plan
from elastriton.core.planner import make_plan
from elastriton.core.profile import Precision, Profile
from elastriton.generator.config import load_config
from elastriton.generator.goals import goals
from elastriton.generator.profiler import profile
from elastriton.generator.repository import generate
from elastriton.generator.serve import Server
from elastriton.runtime.executor import ElasticExecutor, load_executor
from elastriton.runtime.files import TORCH_FOLDER
from elastriton.runtime.torch_encoder import serving_device

ENCODER, TASK = "encoder", "task"
IMAGES = "images"
DIFFERENT = 16
SLO_MS = 60_000.0
ROUNDS = 5
BATCHES_PER_ROUND = 16


def served(shape: Shape, precision: Precision, batches: Sequence[int], seed: int) -> list[dict[str, Any]]:
    """Images per second through Triton and of the bare executor, in turns, at each level that needs no prompts.

    Each request carries a JPEG that is decoded on the CPU, in as many processes as the plan asks for; the bare executor
    is given pixels in full batches. What the images are labelled as means nothing: they are there to time the decoding.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        save(shape, folder, seed)
        for number in range(DIFFERENT):
            file = folder / IMAGES / LABELS[number % len(LABELS)] / f"{number}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(_jpeg(shape.side, number))
        measured = profile(
            load_config(configuration(shape, precision, batches, folder)),
            folder,
            folder / "build",
            budget_s=0.0,
            advance=lambda _: None,
        )
        plan = make_plan(measured, "", goals(load_config(folder / "elastriton.yaml")))
        return [
            _at_level(only(plan, measured, level.gamma), level.gamma, shape, folder)
            for level in shape.levels
            if level.gamma <= 0
        ]


def configuration(shape: Shape, precision: Precision, batches: Sequence[int], folder: Path) -> Path:
    """Write elastriton.yaml for a model that lies in `folder`."""
    encoder = {
        "kind": "vision",
        "model": TORCH_FOLDER,
        "runtime": "torch",
        "precision": precision,
        "levels": [gamma for gamma in shape.gammas if gamma <= 0],
        "batches": sorted(batches),
    }
    task = {"encoder": ENCODER, "slo_ms": SLO_MS, "labels": list(LABELS), "data": {"path": IMAGES}}
    path = folder / "elastriton.yaml"
    path.write_text(json.dumps({"version": 1, "encoders": {ENCODER: encoder}, "tasks": {TASK: task}}), encoding="utf-8")
    return path


def only(plan: Plan, measured: Profile, gamma: int) -> Plan:
    """The plan with one level alone, whether or not the planner would keep it."""
    encoder = measured.encoders[ENCODER]
    levels = tuple(level for level in encoder.levels if level.gamma == gamma)
    cells = tuple(cell for cell in encoder.latency if cell.gamma == gamma)
    scheduler = plan.schedulers[f"{ENCODER}_scheduler"]
    tasks = {name: replace(task, accuracy=(LevelAccuracy(gamma, 1.0),)) for name, task in scheduler.tasks.items()}
    return replace(
        plan,
        executors={name: replace(executor, levels=levels) for name, executor in plan.executors.items()},
        schedulers={f"{ENCODER}_scheduler": replace(scheduler, tasks=tasks, latency=cells)},
    )


def _at_level(plan: Plan, gamma: int, shape: Shape, folder: Path) -> dict[str, Any]:
    [part] = plan.executors.values()
    executor = load_executor(part, folder / "build", serving_device())
    count = BATCHES_PER_ROUND * part.max_batch
    images = [_jpeg(shape.side, number) for number in range(DIFFERENT)] * (count // DIFFERENT + 1)
    repository = folder / f"repository{gamma}"
    generate(plan, folder / "build", repository)
    with Server(repository, log=folder / "log") as server:
        client = Client(f"grpc://{server.grpc_url}", timeout_s=120.0, max_in_flight=4 * part.max_batch)
        with client:
            figures = take_turns(
                ROUNDS,
                {
                    "bare": lambda: bare(executor, shape, count, gamma),
                    "triton": lambda: through(client, images[:count]),
                },
            )
    return {
        "gamma": gamma,
        "images_per_s": {name: spread(values) for name, values in figures.items()},
        "triton_over_bare": spread(ratios(figures["triton"], figures["bare"])),
    }


def bare(executor: ElasticExecutor, shape: Shape, count: int, gamma: int) -> float:
    """Images per second of the executor in this process, in full batches."""
    inputs = shape.inputs(executor.max_batch, 0, executor.levels[gamma])
    started_s = time.perf_counter()
    for _ in range(count // executor.max_batch):
        executor.logits(inputs, [TASK] * executor.max_batch, gamma)
    return count / (time.perf_counter() - started_s)


def through(client: Client, images: list[bytes]) -> float:
    """Images per second through the ensemble, with enough in flight to keep the executor busy."""
    started_s = time.perf_counter()
    client.classify(TASK, images=images)
    return len(images) / (time.perf_counter() - started_s)


def _jpeg(side: int, seed: int) -> bytes:
    file = io.BytesIO()
    patches = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)  # not noise: a photo's size
    Image.fromarray(patches).resize((side, side)).save(file, "JPEG")
    return file.getvalue()
