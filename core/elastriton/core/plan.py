"""Plan: written by the generator, read by the backends. Each served model keeps its own part as `1/plan.json`.

Plan
├── executors   one per encoder: levels, heads and prompts       backends/elastic
├── schedulers  one per encoder: latency, accuracy, deadlines    backends/elastic_scheduler
├── decoders    one per vision task: image bytes to pixels       backends/decode_image
└── cascades    one per text task, or task with small models     backends/cascade
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from elastriton.core.audit import AuditPlan
from elastriton.core.confidence import Score
from elastriton.core.errors import ConfigError
from elastriton.core.fairness import Floors
from elastriton.core.latency import Cell, LatencyTable
from elastriton.core.levels import TokenLevel
from elastriton.core.names import NAME
from elastriton.core.policy import Outlook
from elastriton.core.profile import Artifact, ImageSpec, Machine, Precision, TextSpec
from elastriton.core.promise import Promise
from elastriton.core.pruning import Pruning
from elastriton.core.records import load

VERSION = 1
PLAN_FILE = "plan.json"
MAX_IMAGE_BYTES = 32 * 1024 * 1024
MAX_IMAGE_PIXELS = 64_000_000

Kind = Literal["vision", "text"]
Objective = Literal["classification", "regression"]


@dataclass(frozen=True, slots=True)
class ExecutorPlan:
    """Run one encoder at any of its levels; heads and prompts are applied per sample, by task.

    `lengths` are those of texts, in tokens, that were measured: what CUDA graphs are captured for.
    """

    kind: Kind
    runtime: Literal["onnxruntime", "torch"]
    artifact: Artifact
    heads: dict[str, Artifact]
    levels: tuple[TokenLevel, ...]
    depth: int
    width: int
    classes: int
    max_batch: int
    image: ImageSpec | None = None
    text: TextSpec | None = None
    instances: int = 1
    threads: int = 0
    precision: Precision = "fp32"
    lengths: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class LevelAccuracy:
    """The accuracy that a task is expected to have at a level."""

    gamma: int
    accuracy: float


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """What the scheduler knows of a task."""

    objective: Objective
    labels: tuple[str, ...]
    slo_ms: float
    utility: float
    temperature: float
    accuracy: tuple[LevelAccuracy, ...]
    floor: float = 0.0


@dataclass(frozen=True, slots=True)
class SchedulerPlan:
    """Queue by deadline, choose batch and level, call the executor; `text` bounds what its encoder reads."""

    executor: str
    kind: Kind
    policy: str
    tasks: dict[str, TaskPlan]
    latency: tuple[Cell, ...]
    max_batch: int
    max_queue: int
    overhead_ms: float
    executors: int = 1
    grace_s: float = 60.0
    text: TextSpec | None = None

    def outlook(self) -> Outlook:
        """The plan as the policies see it."""
        accuracy = {name: {point.gamma: point.accuracy for point in task.accuracy} for name, task in self.tasks.items()}
        floors = Floors({name: task.floor for name, task in self.tasks.items() if task.floor > 0.0})
        slo_ms = {name: task.slo_ms for name, task in self.tasks.items()}
        table = LatencyTable(self.latency)
        return Outlook(table, accuracy, self.max_batch, self.overhead_ms, self.executors, floors, slo_ms)


@dataclass(frozen=True, slots=True)
class DecoderPlan:
    """Turn an encoded image into the pixels that the encoder of `task` reads, in `instances` processes side by side.

    `slo_ms` is the task's own deadline, for requests that bring none; `needed_ms` is what decoding and the fastest
    level take alone. What says that it has too little time left for them is not decoded.
    """

    task: str
    image: ImageSpec
    slo_ms: float
    needed_ms: float = 0.0
    max_bytes: int = MAX_IMAGE_BYTES
    max_pixels: int = MAX_IMAGE_PIXELS
    instances: int = 1


@dataclass(frozen=True, slots=True)
class SmallPlan:
    """A small model of a cascade, and when its answer is final: at a confidence of at least `threshold`."""

    artifact: Artifact
    temperature: float
    threshold: float
    max_batch: int
    power: float = 2.0
    text: TextSpec | None = None
    image: ImageSpec | None = None


@dataclass(frozen=True, slots=True)
class CascadePlan:
    """Answer with the first small model that is sure, else through `scheduler`; without any, always there.

    `small_weight` is the last small model's share in the weighted ensemble, `pruning` what is cut from the text of a
    re-routed request, and `promise` what was certified of all of it together.
    """

    task: str
    kind: Kind
    objective: Objective
    labels: tuple[str, ...]
    inputs: int
    scheduler: str
    slo_ms: float
    max_batch: int
    tokenizer: Artifact | None = None
    text: TextSpec | None = None
    image: ImageSpec | None = None
    small: tuple[SmallPlan, ...] = ()
    score: Score = "max"
    small_weight: float = 0.0
    pruning: Pruning | None = None
    audit: AuditPlan | None = None
    promise: Promise | None = None
    grace_s: float = 60.0


@dataclass(frozen=True, slots=True)
class PublicTask:
    """The ensemble that users call: a task's input and outputs, and the model that stands first behind it."""

    kind: Kind
    objective: Objective
    labels: tuple[str, ...]
    inputs: int
    entry: str
    scheduler: str
    max_batch: int
    cascade: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that `elastriton generate` renders, and where the numbers came from."""

    version: int
    profile_sha256: str
    profile_created: str
    machine: Machine
    executors: dict[str, ExecutorPlan]
    schedulers: dict[str, SchedulerPlan]
    decoders: dict[str, DecoderPlan]
    cascades: dict[str, CascadePlan]
    tasks: dict[str, PublicTask]
    notes: tuple[str, ...] = field(default=())


def load_plan(path: Path) -> Plan:
    """Read a plan. Raises ConfigError where it is of another version or malformed, or a model's name is no name."""
    plan = load(Plan, path, made_by="plan")
    if plan.version != VERSION:
        raise ConfigError(f"{path} has version {plan.version}, this release reads {VERSION}; plan again")
    for name in (*plan.executors, *plan.schedulers, *plan.decoders, *plan.cascades, *plan.tasks):
        if not re.fullmatch(NAME, name):
            raise ConfigError(f"{path} names a model {name!r}; names are of a-z, 0-9 and _, so plan again")
    return plan
