"""One small model that a cascade may use: exported, run once over the labelled data, and profiled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elastriton.core.confidence import Score, aurc, confidence, fit_power, fit_temperature
from elastriton.core.errors import ConfigError
from elastriton.core.latency import Cell, LatencyTable
from elastriton.core.levels import TokenLevel
from elastriton.core.profile import Accuracy, Artifact, SmallProfile, TextSpec, digest
from elastriton.core.pruning import Pruning
from elastriton.generator.cached import Answers
from elastriton.generator.config import CascadeConfig, TaskConfig
from elastriton.generator.data import Labelled
from elastriton.generator.measure import Advance, check_finite, latency
from elastriton.generator.prepare import PreparedEncoder, PreparedSmall, prepare_small
from elastriton.generator.pruned import large_answers, prune, token_counts
from elastriton.generator.samples import rows
from elastriton.generator.search import item_ms, least_ms, losses, spread
from elastriton.generator.uncertainty import expected_distance
from elastriton.runtime.executor import ElasticExecutor, Floats
from elastriton.runtime.heads import TaskHead, save_head
from elastriton.runtime.preparing import Preparation, Row, Texts, preparation
from elastriton.runtime.small import Outputs, PlainModel
from elastriton.runtime.texts import TooLong

BATCHES = (1, 4, 8, 16, 32)


@dataclass(frozen=True)
class CascadeTask:
    """A task whose cascade is to be measured; `truth` [n] are class numbers or values, the first `n_fit` for fitting.

    `cells` are the encoder's latency, `plain` the large model's logits [n, classes].
    """

    name: str
    task: TaskConfig
    prepared: PreparedEncoder
    executor: ElasticExecutor
    data: Labelled
    truth: NDArray[Any]
    n_fit: int
    cells: tuple[Cell, ...]
    plain: Floats

    @cached_property
    def rows(self) -> Sequence[Row]:
        """The samples as clients send them; the images of a folder are read once."""
        return rows(self.data)

    @property
    def alike(self) -> set[tuple[str, ...]]:
        """The labels of the task, none for a regression; and what the model calls them, where its head is served."""
        labels, own = self.prepared.labels[self.name], self.prepared.own_labels
        return {labels, own} if labels and own and self.task.head is None else {labels}


class Candidate:
    """A small model and what it says: `outputs` of every sample it can read, `answers` of all."""

    def __init__(
        self, setting: CascadeTask, config: CascadeConfig, number: int, large: Answers, base: Path, output: Path
    ) -> None:
        """Export and run model `number` of the cascade; a regression's gets its head for the expected distance.

        Raises ConfigError where it does not fit the task, answers with no numbers, or can read none of the samples to
        fit with, or none of those to judge by.
        """
        self._setting, self._config, self._name, self._output = setting, config, config.models[number], output
        kind = setting.prepared.plan.kind
        self._text = TextSpec(config.max_length) if kind == "text" else None
        self._exported: PreparedSmall = prepare_small(
            setting.name, number, self._name, kind, setting.alike, base, output
        )
        if self._text is not None and config.max_length > self._exported.max_length:
            raise ConfigError(
                f"task {setting.name}: the cascade's max_length {config.max_length} is above the "
                f"{self._exported.max_length} positions of {self._name}"
            )
        folder = self._exported.folder
        self._reader = preparation(setting.name, self._text, self._exported.image, folder, setting.task.inputs)
        self._model = PlainModel(folder, setting.name)
        readings = [self._read(row) for row in setting.rows]
        self._tokens = token_counts(readings, self._reader)
        self.outputs = self._run(readings)
        for purpose, part in (("fit with", slice(setting.n_fit)), ("judge by", slice(setting.n_fit, None))):
            if all(one is None for one in self.outputs[part]):
                raise ConfigError(
                    f"task {setting.name}: every text to {purpose} is too long for {self._name}; raise max_length"
                )
        if setting.task.objective == "regression":
            self._learn_uncertainty(large)
        nothing = np.full(len(self._model.head.bias), np.nan, np.float32)
        logits = np.stack([nothing if one is None else one.logits for one in self.outputs])
        self.answers = Answers(logits, self._tokens)

    def profile(self, budget_s: float, advance: Advance) -> SmallProfile:
        """Latency, temperature and accuracy."""
        setting, truth, n_fit, logits = self._setting, self._setting.truth, self._setting.n_fit, self.answers.logits
        read = np.isfinite(logits[:, 0])
        fit, behind = np.flatnonzero(read[:n_fit]), n_fit + np.flatnonzero(read[n_fit:])
        classes = setting.task.objective == "classification"
        right = int((logits[behind].argmax(-1) == truth[behind]).sum()) if classes else 0
        temperature = fit_temperature(logits[fit], truth[fit]) if classes else 1.0
        power = fit_power(logits[fit], truth[fit]) if classes else 2.0
        lost = losses(logits[behind], truth[behind], spread(truth[:n_fit]))
        folder = self._exported.folder
        return SmallProfile(
            artifact=Artifact(folder.relative_to(self._output).as_posix(), digest(folder)),
            model=self._name,
            latency=self._latency(budget_s, advance),
            temperature=temperature,
            power=power,
            accuracy=Accuracy.of(0, right, len(truth) - n_fit) if classes else None,
            aurc=aurc(confidence(logits[behind], self._score, temperature, power), lost),
            text=self._text,
            image=self._exported.image,
        )

    def least_ms(self, large: Answers, profile: SmallProfile) -> float:
        """What this model could bring at best, judged on the fit part (see generator/search.py)."""
        setting, n = self._setting, self._setting.n_fit
        logits, truth = self.answers.logits[:n], setting.truth[:n]
        span = spread(truth)
        read = np.isfinite(logits[:, 0])
        sure = np.where(read, confidence(logits, self._score, profile.temperature, profile.power), -np.inf)
        whole = losses(large.logits[:n], truth, span)
        lost = np.where(read, losses(logits, truth, span), whole)
        small_ms = float(item_ms(LatencyTable(profile.latency), self._tokens[:n]).mean())
        large_ms = float(item_ms(LatencyTable(setting.cells), large.tokens[:n]).mean())
        return least_ms((lost, whole), sure, (small_ms, large_ms), self._config)

    def pruned(self, reader: Preparation, large: Answers, rule: Pruning) -> tuple[Answers, Floats]:
        """The large model's answers to the texts as this model prunes them, and the share of words that went."""
        if not isinstance(self._reader, Texts):
            return large, np.zeros(len(large.tokens), np.float32)
        rows, cut = prune(self._setting.rows, self.outputs, self._reader.tokenizer, rule)
        changed = np.flatnonzero(cut > 0)
        logits, tokens = large.logits.copy(), large.tokens.copy()
        if len(changed):
            again = large_answers(self._setting.executor, self._setting.name, reader, [rows[i] for i in changed])
            logits[changed], tokens[changed] = again.logits, again.tokens
        return Answers(logits, tokens), cut

    @property
    def _score(self) -> Score:
        return self._config.score if self._setting.task.objective == "classification" else "uncertainty"

    def _read(self, row: Row) -> Any:
        try:
            return self._reader.read(row)
        except TooLong:
            return None

    def _run(self, readings: Sequence[Any]) -> list[Outputs | None]:
        outputs: list[Outputs | None] = [None] * len(readings)
        order = [i for i in np.argsort(self._tokens, kind="stable").tolist() if readings[i] is not None]
        for start in range(0, len(order), max(BATCHES)):
            indices = order[start : start + max(BATCHES)]
            batch = self._model.run(self._reader.batch([readings[i] for i in indices]))
            check_finite(batch.logits, f"task {self._setting.name}, small model {self._name}")
            for row, i in enumerate(indices):
                attention = None if batch.attention is None else batch.attention[row, : self._tokens[i]]
                outputs[i] = Outputs(batch.features[row], batch.logits[row], attention)
        return outputs

    def _latency(self, budget_s: float, advance: Advance) -> tuple[Cell, ...]:
        lengths: tuple[int, ...] = (1,)
        if self._text is not None:
            longest = self._config.max_length
            measured = sorted({cell.length for cell in self._setting.cells if cell.length < longest})
            lengths = (*measured, longest)
        name, image = self._setting.name, self._exported.image
        timed = ElasticExecutor(self._model.encoder, {name: self._model.head}, [TokenLevel(0)], max(BATCHES))
        return latency(timed, name, image, lengths, BATCHES, budget_s=budget_s, advance=advance)

    def _learn_uncertainty(self, large: Answers) -> None:
        """Add a row to the head: the distance to the large model's value that is to be expected, from the fit part."""
        fit = [(i, one) for i, one in enumerate(self.outputs[: self._setting.n_fit]) if one is not None]
        distance = np.array([abs(one.logits[0] - large.logits[i, 0]) for i, one in fit])
        weight, bias = expected_distance(np.stack([one.features for _, one in fit]), distance)
        head = self._model.head
        self._model.head = TaskHead(head.task, np.vstack([head.weight, weight[None]]), np.append(head.bias, bias))
        save_head(self._exported.folder, self._model.head)
        for i, one in enumerate(self.outputs):
            if one is not None:
                further = one.features @ weight + bias
                self.outputs[i] = Outputs(one.features, np.append(one.logits, further), one.attention)
