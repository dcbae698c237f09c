"""Measure everything a plan needs: `elastriton profile`.

elastriton.yaml ─► samples.py ─► prepare.py (export) ─► measure.py, evaluate.py ─► Profile ─► <output>/profile.json
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from elastriton.core.errors import ConfigError
from elastriton.core.latency import Cell
from elastriton.core.names import artifacts
from elastriton.core.profile import PROFILE_FILE, VERSION, EncoderProfile, Profile, TaskProfile
from elastriton.core.records import dumps
from elastriton.generator.candidates import CascadeTask
from elastriton.generator.cascades import measure_cascade
from elastriton.generator.config import Config, TaskConfig, resolve
from elastriton.generator.data import Labelled
from elastriton.generator.evaluate import Collate, evaluate, image_batches, text_batches
from elastriton.generator.goals import configured
from elastriton.generator.machine import this_machine
from elastriton.generator.measure import Advance, decoding_ms, latency
from elastriton.generator.prepare import PreparedEncoder, prepare_encoder
from elastriton.generator.samples import all_data, truth
from elastriton.runtime.executor import ElasticExecutor, graph_buckets, load_executor


def profile(config: Config, base: Path, output: Path, *, budget_s: float, advance: Advance) -> Profile:
    """Export every model and measure it; artifacts and profile.json go to `output`, whose paths they share.

    `base` is the folder that the configuration's paths start from, `budget_s` the time to spend on each cell of a
    latency table (at least 15 runs are made). Raises ConfigError where models, heads or data do not fit together.
    """
    _check_sources(config, base, output)
    data = all_data(config, base)
    encoders: dict[str, EncoderProfile] = {}
    tasks: dict[str, TaskProfile] = {}
    for name, encoder in config.encoders.items():
        prepared = prepare_encoder(name, config, base, output, advance)
        measurements = [
            _TaskMeasurement(task_name, task, prepared, data.get(task_name), output)
            for task_name, task in config.tasks.items()
            if task.encoder == name
        ]
        executor = load_executor(prepared.plan, output, prepared.device)
        lengths = prepared.plan.lengths or (prepared.tokens,)
        buckets = graph_buckets(prepared.plan, prepared.device)
        batches = sorted({*encoder.batches, *(buckets.steps() if buckets else ())})
        any_task = max(executor.heads, key=lambda task: executor.heads[task].prompt_count())
        cells = latency(executor, any_task, prepared.plan.image, lengths, batches, budget_s=budget_s, advance=advance)
        encoders[name] = _encoder(encoder.model, prepared, cells)
        for measurement in measurements:
            tasks[measurement.name] = measurement.run(executor, cells, base, budget_s, advance)
    result = Profile(
        version=VERSION,
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        seed=config.seed,
        machine=this_machine(),
        encoders=encoders,
        tasks=tasks,
        configured=configured(config),
    )
    (output / PROFILE_FILE).write_text(dumps(result), encoding="utf-8")
    return result


class _TaskMeasurement:
    """What is measured of one task: accuracy by level, temperature, and its cascade."""

    def __init__(
        self, name: str, task: TaskConfig, prepared: PreparedEncoder, data: Labelled | None, output: Path
    ) -> None:
        """Look at the labels and read the texts. Raises ConfigError where they are not the model's, or too long."""
        self.name, self._task, self._prepared, self._data, self._output = name, task, prepared, data, output
        self._labels = prepared.labels[name]
        if data is not None:
            self._truth = truth(data, task, self._labels)
            self._batches = self._read(data)

    def run(
        self, executor: ElasticExecutor, cells: tuple[Cell, ...], base: Path, budget_s: float, advance: Advance
    ) -> TaskProfile:
        task, data, image = self._task, self._data, self._prepared.plan.image
        result = TaskProfile(
            encoder=task.encoder,
            objective=task.objective,
            labels=self._labels,
            head=self._prepared.plan.heads[self.name],
            inputs=task.inputs,
            temperature=1.0,
            n_fit=0,
        )
        if data is None or task.data is None:
            return result
        n_fit = task.data.n_fit(len(data))
        evaluation = evaluate(executor, task.encoder, self.name, self._batches(), self._truth, n_fit, advance)
        result = replace(result, n_fit=n_fit)
        if image is not None:
            result = replace(result, decode_ms=decoding_ms(data.images, image))
        if task.objective == "classification":
            temperature, accuracy = evaluation.temperature(), evaluation.accuracies()
            result = replace(result, temperature=temperature, accuracy=accuracy)
        if task.cascade is None:
            return result
        plain = evaluation.logits[0]
        setting = CascadeTask(self.name, task, self._prepared, executor, data, self._truth, n_fit, cells, plain)
        cascade = measure_cascade(setting, task.cascade, base, self._output, budget_s=budget_s, advance=advance)
        return replace(result, cascade=cascade)

    def _read(self, data: Labelled) -> Callable[[], tuple[Collate, Sequence[int]]]:
        """How to make batches, when it is time: images are decoded then, as they take memory, texts are read now."""
        plan, tokenizer = self._prepared.plan, self._prepared.tokenizer
        if plan.image is not None:
            return partial(image_batches, data, plan.image)
        if tokenizer is None or plan.text is None:
            raise ConfigError(f"encoder {self._task.encoder} reads neither images nor texts")
        batches = text_batches(data, self._output / tokenizer.path, plan.text.max_length, self._task.inputs)
        return lambda: batches


def _check_sources(config: Config, base: Path, output: Path) -> None:
    """Raises ConfigError where a model's folder is missing, or one lies where artifacts go, which are written anew."""
    small = (model for task in config.tasks.values() if task.cascade for model in task.cascade.models)
    models = [resolve(model, base) for model in (*(one.model for one in config.encoders.values()), *small)]
    files = [name for task in config.tasks.values() for name in (task.head, task.prompts) if name]
    files += [task.data.path for task in config.tasks.values() if task.data]
    for source in (*map(Path, models), *(base / file for file in files)):  # an id is no path, and none lies there
        for name, _ in artifacts(config.encoders, config.tasks):
            if source.resolve().is_relative_to((output / name).resolve()):
                raise ConfigError(f"{source} lies where `profile` writes, in {output / name}; pass another --build")


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
