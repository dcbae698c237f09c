"""Measure everything a plan needs: `elastriton profile`.

elastriton.yaml ─► prepare.py (export) ─► measure.py, evaluate.py ─► core.profile.Profile ─► <output>/profile.json
"""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path

from elastriton.core.latency import Cell
from elastriton.core.profile import (
    PROFILE_FILE,
    VERSION,
    CascadeProfile,
    EncoderProfile,
    Profile,
    TaskProfile,
    TextSpec,
)
from elastriton.core.records import dumps
from elastriton.generator.config import Config, TaskConfig
from elastriton.generator.data import Labelled, label_numbers, load_data
from elastriton.generator.evaluate import Evaluation, evaluate, image_batches, text_batches, trade_off
from elastriton.generator.machine import this_machine
from elastriton.generator.measure import Advance, latency
from elastriton.generator.prepare import PreparedEncoder, prepare_encoder, prepare_small
from elastriton.runtime.executor import ElasticExecutor, load_executor, load_plain

SMALL_BATCHES = (1, 4, 8, 16, 32)


def profile(config: Config, base: Path, output: Path, *, budget_s: float, advance: Advance) -> Profile:
    """Export every model and measure it; artifacts and profile.json go to `output`, whose paths they share.

    `base` is the folder that the configuration's paths start from, `budget_s` the time to spend on each cell of a
    latency table (at least 15 runs are made). Raises ConfigError where models, heads or data do not fit together.
    """
    encoders: dict[str, EncoderProfile] = {}
    tasks: dict[str, TaskProfile] = {}
    for name, encoder in config.encoders.items():
        prepared = prepare_encoder(name, config, base, output, advance)
        executor = load_executor(prepared.plan, output)
        lengths = (prepared.tokens,) if encoder.kind == "vision" else _up_to(encoder.lengths, encoder.max_length)
        any_task = max(executor.heads, key=lambda task: executor.heads[task].prompt_count())
        cells = latency(
            executor, any_task, prepared.plan.image, lengths, encoder.batches, budget_s=budget_s, advance=advance
        )
        encoders[name] = _encoder(encoder.model, prepared, cells)
        for task_name, task in config.tasks.items():
            if task.encoder == name:
                measure = _TaskMeasurement(task_name, task, prepared, executor, base, output)
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
    """What is measured of one task: accuracy by level, temperature, and the cascade's trade-off."""

    def __init__(
        self,
        name: str,
        task: TaskConfig,
        prepared: PreparedEncoder,
        executor: ElasticExecutor,
        base: Path,
        output: Path,
    ) -> None:
        self.name, self.task, self.prepared, self.executor = name, task, prepared, executor
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
        if task.data is None or task.objective == "regression":
            return result
        data = load_data(self.base / task.data.path).part(0, task.data.samples)
        evaluation = self._evaluate(data, self.executor, self._tokenizer(), advance)
        result = replace(
            result,
            temperature=evaluation.temperature(),
            n_fit=evaluation.n_fit,
            accuracy=evaluation.accuracies(),
        )
        if task.cascade is None:
            return result
        return replace(result, cascade=self._cascade(data, evaluation, budget_s, advance))

    def _tokenizer(self) -> Path | None:
        return self.output / self.prepared.tokenizer.path if self.prepared.tokenizer else None

    def _evaluate(
        self, data: Labelled, executor: ElasticExecutor, tokenizer: Path | None, advance: Advance
    ) -> Evaluation:
        plan = self.prepared.plan
        if plan.image is not None:
            batches = image_batches(self.name, data, plan.image)
        elif tokenizer is not None and plan.text is not None:
            batches = text_batches(data, tokenizer, plan.text.max_length, self.task.inputs)
        n_fit = self.task.data.n_fit(len(data)) if self.task.data else 0
        return evaluate(executor, self.name, batches, label_numbers(data, self.labels), n_fit, advance)

    def _cascade(self, data: Labelled, large: Evaluation, budget_s: float, advance: Advance) -> CascadeProfile | None:
        cascade = self.task.cascade
        if cascade is None:
            return None
        advance(f"export of the small model of {self.name}")
        artifact = prepare_small(self.name, cascade.model, self.labels, self.base, self.output)
        folder = self.output / artifact.path
        executor = load_plain(folder, self.name, max(SMALL_BATCHES))
        small = self._evaluate(data, executor, folder, advance)
        temperature, operating = trade_off(small, large)
        cells = latency(
            executor, self.name, None, (cascade.max_length,), SMALL_BATCHES, budget_s=budget_s, advance=advance
        )
        return CascadeProfile(
            artifact=artifact,
            model=cascade.model,
            text=TextSpec(cascade.max_length),
            latency=cells,
            temperature=temperature,
            accuracy=small.accuracies()[0],
            operating=operating,
        )


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
    )


def _up_to(lengths: tuple[int, ...], longest: int) -> tuple[int, ...]:
    return tuple(sorted(length for length in lengths if length <= longest))
