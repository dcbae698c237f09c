"""Measure everything a plan needs: `elastriton profile`.

elastriton.yaml ─► prepare.py (export) ─► measure.py, evaluate.py ─► core.profile.Profile ─► <output>/profile.json
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from elastriton.core.errors import ConfigError
from elastriton.core.latency import Cell
from elastriton.core.plan import DecoderPlan
from elastriton.core.profile import PROFILE_FILE, VERSION, EncoderProfile, Profile, TaskProfile
from elastriton.core.records import dumps
from elastriton.generator.candidates import CascadeTask
from elastriton.generator.cascades import measure_cascade
from elastriton.generator.config import Config
from elastriton.generator.data import Labelled, label_numbers, load_data, values
from elastriton.generator.evaluate import Collate, evaluate, image_batches, text_batches
from elastriton.generator.machine import this_machine
from elastriton.generator.measure import Advance, decoding_ms, latency
from elastriton.generator.prepare import PreparedEncoder, prepare_encoder
from elastriton.runtime.executor import ElasticExecutor, graph_buckets, load_executor


def profile(config: Config, base: Path, output: Path, *, budget_s: float, advance: Advance) -> Profile:
    """Export every model and measure it; artifacts and profile.json go to `output`, whose paths they share.

    `base` is the folder that the configuration's paths start from, `budget_s` the time to spend on each cell of a
    latency table (at least 15 runs are made). Raises ConfigError where models, heads or data do not fit together.
    """
    encoders: dict[str, EncoderProfile] = {}
    tasks: dict[str, TaskProfile] = {}
    for name, encoder in config.encoders.items():
        prepared = prepare_encoder(name, config, base, output, advance)
        executor = load_executor(prepared.plan, output, prepared.device)
        lengths = prepared.plan.lengths or (prepared.tokens,)
        buckets = graph_buckets(prepared.plan, prepared.device)
        batches = sorted({*encoder.batches, *(buckets.steps() if buckets else ())})
        any_task = max(executor.heads, key=lambda task: executor.heads[task].prompt_count())
        cells = latency(executor, any_task, prepared.plan.image, lengths, batches, budget_s=budget_s, advance=advance)
        encoders[name] = _encoder(encoder.model, prepared, cells)
        for task_name, task in config.tasks.items():
            if task.encoder == name:
                measure = _TaskMeasurement(task_name, config, prepared, executor, cells, base, output)
                tasks[task_name] = measure.run(budget_s, advance)
    result = Profile(
        version=VERSION,
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        seed=config.seed,
        machine=this_machine(),
        encoders=encoders,
        tasks=tasks,
    )
    (output / PROFILE_FILE).write_text(dumps(result), encoding="utf-8")
    return result


class _TaskMeasurement:
    """What is measured of one task: accuracy by level, temperature, and its cascade."""

    def __init__(
        self,
        name: str,
        config: Config,
        prepared: PreparedEncoder,
        executor: ElasticExecutor,
        cells: tuple[Cell, ...],
        base: Path,
        output: Path,
    ) -> None:
        self.name, self.task, self.prepared, self.executor = name, config.tasks[name], prepared, executor
        self.cells = cells
        self.base, self.output = base, output
        self.labels = prepared.labels[name]

    def run(self, budget_s: float, advance: Advance) -> TaskProfile:
        task = self.task
        result = TaskProfile(
            encoder=task.encoder,
            objective=task.objective,
            labels=self.labels,
            head=self.prepared.plan.heads[self.name],
            inputs=task.inputs,
            temperature=1.0,
            n_fit=0,
        )
        if task.data is None:
            return result
        data = load_data(self.base / task.data.path).part(0, task.data.samples)
        truth: NDArray[Any] = values(data) if task.objective == "regression" else label_numbers(data, self.labels)
        n_fit = task.data.n_fit(len(data))
        evaluation = evaluate(self.executor, self.name, self._batches(data), truth, n_fit, advance)
        result = replace(result, n_fit=n_fit)
        if (image := self.prepared.plan.image) is not None:
            result = replace(result, decode_ms=decoding_ms(data.images, DecoderPlan(self.name, image)))
        if task.objective == "classification":
            temperature, accuracy = evaluation.temperature(), evaluation.accuracies()
            result = replace(result, temperature=temperature, accuracy=accuracy)
        if task.cascade is None:
            return result
        plain = evaluation.logits[0]
        setting = CascadeTask(self.name, task, self.prepared, self.executor, data, truth, n_fit, self.cells, plain)
        cascade = measure_cascade(setting, task.cascade, self.base, self.output, budget_s=budget_s, advance=advance)
        return replace(result, cascade=cascade)

    def _batches(self, data: Labelled) -> tuple[Collate, Sequence[int]]:
        plan, tokenizer = self.prepared.plan, self.prepared.tokenizer
        if plan.image is not None:
            return image_batches(self.name, data, plan.image)
        if tokenizer is None or plan.text is None:
            raise ConfigError(f"encoder {self.task.encoder} reads neither images nor texts")
        return text_batches(data, self.output / tokenizer.path, plan.text.max_length, self.task.inputs)


def _encoder(model: str, prepared: PreparedEncoder, cells: tuple[Cell, ...]) -> EncoderProfile:
    plan = prepared.plan
    return EncoderProfile(
        kind=plan.kind,
        runtime=plan.runtime,
        model=model,
        tokens=prepared.tokens,
        depth=plan.depth,
        width=plan.width,
        artifact=plan.artifact,
        levels=plan.levels,
        latency=cells,
        image=plan.image,
        text=plan.text,
        tokenizer=prepared.tokenizer,
        instances=plan.instances,
        threads=plan.threads,
        precision=plan.precision,
    )
