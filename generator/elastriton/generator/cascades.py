"""Measure a task's cascade: run each small model once over the labelled data, and the large one once per pruning rule.

samples ─► small models: logits, attention ─► shortened texts ─► large model ─► cached.py ─► search.py decides
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elastriton.core.confidence import Score, aurc, confidence, fit_power, fit_temperature
from elastriton.core.errors import ConfigError
from elastriton.core.latency import Cell, LatencyTable
from elastriton.core.levels import TokenLevel
from elastriton.core.profile import Accuracy, Artifact, CascadeProfile, SmallProfile, TextSpec, digest
from elastriton.core.pruning import Pruning
from elastriton.generator.cached import Answers, Cached, save_cached
from elastriton.generator.config import CascadeConfig, TaskConfig
from elastriton.generator.data import Labelled
from elastriton.generator.measure import Advance, all_logits, latency
from elastriton.generator.prepare import PreparedEncoder, PreparedSmall, prepare_small
from elastriton.generator.search import hopeless, item_ms, least_ms, losses, spread
from elastriton.generator.splits import item_hash
from elastriton.runtime.executor import ElasticExecutor, Floats
from elastriton.runtime.heads import TaskHead, save_head
from elastriton.runtime.preparing import Preparation, Row, Texts, preparation
from elastriton.runtime.small import Outputs, PlainModel
from elastriton.runtime.texts import TooLong
from elastriton.runtime.words import shorten

BATCHES = (1, 4, 8, 16, 32)
RIDGE = 0.1


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

    @property
    def rows(self) -> Sequence[Row]:
        """The samples as clients send them."""
        rows: list[Row] = [(image,) for image in self.data.images]
        return rows or self.data.texts

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the task; none for a regression."""
        return self.prepared.labels[self.name]


def measure_cascade(
    setting: CascadeTask, config: CascadeConfig, base: Path, output: Path, *, budget_s: float, advance: Advance
) -> CascadeProfile:
    """Export the small models, run everything once, and write the answers to `output`."""
    plan = setting.prepared.plan
    tokenizer = output / setting.prepared.tokenizer.path if setting.prepared.tokenizer else output
    large = preparation(setting.name, plan.text, plan.image, tokenizer, setting.task.inputs)
    answers = Answers(setting.plain, _tokens([large.read(row) for row in setting.rows], large))
    rules = _rules(config)
    small, said, pruned, words_cut = [], [], {}, {}
    incumbent_ms = np.inf
    for number, model in enumerate(config.models):
        one = _Small(setting, config, number, model, base, output)
        small.append(one.profile(answers.logits, budget_s, advance))
        said.append(one.answers())
        fastest_ms = one.least_ms(answers, small[-1])
        if fastest_ms >= incumbent_ms:
            continue
        incumbent_ms = fastest_ms
        for j, rule in enumerate(rules):
            pruned[number, j], words_cut[number, j] = one.pruned(large, answers, rule)
            advance(f"{setting.name}: rule {j} for texts after small model {number}")
            cached = Cached(setting.truth, (), answers, (), {(0, 0): pruned[number, j]})
            if rule.keep_rate is None and hopeless(cached, config, setting.n_fit):
                break  # a larger scale removes more
    cached = Cached(
        setting.truth, tuple(item_hash(tuple(row)) for row in setting.rows), answers, tuple(said), pruned, words_cut
    )
    folder = output / f"{setting.name}_cascade"
    folder.mkdir(exist_ok=True)
    save_cached(cached, folder)
    return CascadeProfile(tuple(small), rules, Artifact(folder.relative_to(output).as_posix(), digest(folder)))


def _rules(config: CascadeConfig) -> tuple[Pruning, ...]:
    never = tuple(word.lower() for word in config.never_prune)
    by_share = [Pruning(keep_rate=rate, floor=config.floor, never=never) for rate in sorted(config.keep_rates)[::-1]]
    by_scale = [Pruning(scale=scale, floor=config.floor, never=never) for scale in sorted(config.scales)]
    return tuple(by_share + by_scale)


def _large(setting: CascadeTask, reader: Preparation, rows: Sequence[Row]) -> Answers:
    """The large model's answers at its plain level."""
    readings = [reader.read(row) for row in rows]
    tokens = _tokens(readings, reader)
    order = np.argsort(tokens, kind="stable").tolist()
    logits = all_logits(
        setting.executor, setting.name, 0, order, lambda indices: reader.batch([readings[i] for i in indices])
    )
    return Answers(logits, tokens)


class _Small:
    """One small model, exported and run over the data."""

    def __init__(
        self, setting: CascadeTask, config: CascadeConfig, number: int, model: str, base: Path, output: Path
    ) -> None:
        self.setting, self.config, self.model, self.output = setting, config, model, output
        kind, text = setting.prepared.plan.kind, TextSpec(config.max_length)
        self.exported: PreparedSmall = prepare_small(setting.name, number, model, kind, setting.labels, base, output)
        self.text = text if kind == "text" else None
        folder = self.exported.folder
        self.reader = preparation(setting.name, self.text, self.exported.image, folder, setting.task.inputs)
        if self.text is not None and config.max_length > self.exported.max_length:
            raise ConfigError(
                f"task {setting.name}: the cascade's max_length {config.max_length} is above the "
                f"{self.exported.max_length} positions of {model}"
            )
        self.plain = PlainModel(folder, setting.name)
        self.readings = [self._read(row) for row in setting.rows]
        self.tokens = _tokens(self.readings, self.reader)
        self.outputs = self._run()
        if all(one is None for one in self.outputs[: setting.n_fit]):
            raise ConfigError(f"task {setting.name}: every text to fit with is too long for {model}; raise max_length")

    def _read(self, row: Row) -> Any:
        try:
            return self.reader.read(row)
        except TooLong:
            return None

    def _run(self) -> list[Outputs | None]:
        outputs: list[Outputs | None] = [None] * len(self.readings)
        for indices in _batches(self.tokens, max(BATCHES)):
            readable = [i for i in indices if self.readings[i] is not None]
            if not readable:
                continue
            batch = self.plain.run(self.reader.batch([self.readings[i] for i in readable]))
            for row, i in enumerate(readable):
                attention = None if batch.attention is None else batch.attention[row, : self.tokens[i]]
                outputs[i] = Outputs(batch.features[row], batch.logits[row], attention)
        return outputs

    def profile(self, large: Floats, budget_s: float, advance: Advance) -> SmallProfile:
        """Latency, temperature and accuracy; a regression first gets its head for the expected error."""
        setting, truth, n_fit = self.setting, self.setting.truth, self.setting.n_fit
        if setting.task.objective == "regression":
            self._learn_uncertainty(large)
        logits = self.answers().logits
        fit = np.flatnonzero(np.isfinite(logits[:n_fit, 0]))
        classes = setting.task.objective == "classification"
        encoder = setting.prepared.plan
        if self.text is None:
            lengths: tuple[int, ...] = (1,)
        else:
            measured = sorted({cell.length for cell in setting.cells if cell.length < self.config.max_length})
            lengths = (*measured, self.config.max_length)
        heads = {setting.name: self.plain.head}
        timed = ElasticExecutor(self.plain.encoder, heads, [TokenLevel(0)], max(BATCHES))
        image = self.exported.image if encoder.kind == "vision" else None
        cells = latency(timed, setting.name, image, lengths, BATCHES, budget_s=budget_s, advance=advance)
        behind = n_fit + np.flatnonzero(np.isfinite(logits[n_fit:, 0]))
        right = int((logits[behind].argmax(-1) == truth[behind]).sum()) if classes else 0
        temperature = fit_temperature(logits[fit], truth[fit]) if classes else 1.0
        power = fit_power(logits[fit], truth[fit]) if classes else 2.0
        score: Score = self.config.score if classes else "uncertainty"
        lost = losses(logits[behind], truth[behind], spread(truth[:n_fit]))
        return SmallProfile(
            artifact=Artifact(self.exported.folder.relative_to(self.output).as_posix(), digest(self.exported.folder)),
            model=self.model,
            latency=cells,
            temperature=temperature,
            power=power,
            accuracy=Accuracy.of(0, right, len(truth) - n_fit) if classes else None,
            aurc=aurc(confidence(logits[behind], score, temperature, power), lost),
            text=self.text,
            image=image,
        )

    def least_ms(self, large: Answers, profile: SmallProfile) -> float:
        """What this model could bring at best, judged on the fit part (see generator/search.py)."""
        setting, n = self.setting, self.setting.n_fit
        logits, truth = self.answers().logits[:n], setting.truth[:n]
        labels_span = spread(truth)
        read = np.isfinite(logits[:, 0])
        score: Score = self.config.score if setting.task.objective == "classification" else "uncertainty"
        sure = np.where(read, confidence(logits, score, profile.temperature, profile.power), -np.inf)
        whole = losses(large.logits[:n], truth, labels_span)
        lost = np.where(read, losses(logits, truth, labels_span), whole)
        small_ms = float(item_ms(LatencyTable(profile.latency), self.tokens[:n]).mean())
        large_ms = float(item_ms(LatencyTable(setting.cells), large.tokens[:n]).mean())
        return least_ms((lost, whole), sure, (small_ms, large_ms), self.config)

    def answers(self) -> Answers:
        """The logits of every sample; NaN for those that are too long for the model."""
        nothing = np.full(len(self.plain.head.bias), np.nan, np.float32)
        return Answers(np.stack([nothing if one is None else one.logits for one in self.outputs]), self.tokens)

    def pruned(self, reader: Preparation, plain: Answers, rule: Pruning) -> tuple[Answers, Floats]:
        """The large model's answers to the pruned texts, and the share of words that went."""
        rows: list[Row] = list(self.setting.rows)
        cut = np.zeros(len(rows), np.float32)
        for i, output in enumerate(self.outputs):
            if output is None or output.attention is None or not isinstance(self.reader, Texts):
                continue
            texts = [str(part) for part in rows[i]]
            short = shorten(texts, self.reader.tokenizer.spans(texts), output.attention, rule)
            rows[i], cut[i] = short.texts, 1.0 - short.kept / max(1, short.words)
        changed = np.flatnonzero(cut > 0)
        logits, tokens = plain.logits.copy(), plain.tokens.copy()
        if len(changed):
            again = _large(self.setting, reader, [rows[i] for i in changed])
            logits[changed], tokens[changed] = again.logits, again.tokens
        return Answers(logits, tokens), cut

    def _learn_uncertainty(self, large: Floats) -> None:
        """Add a row to the head: the distance |small - large| that ridge regression expects from the features.

        It needs no labels. It is fitted on the fit part, with standardised features.
        """
        fit = [i for i in range(self.setting.n_fit) if self.outputs[i] is not None]
        features = np.stack([one.features for i in fit if (one := self.outputs[i]) is not None]).astype(np.float64)
        values = np.array([one.logits[0] for i in fit if (one := self.outputs[i]) is not None])
        target = np.abs(values - large[fit, 0])
        mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-6
        z = (features - mean) / scale
        weight = (
            np.linalg.solve(z.T @ z + RIDGE * len(fit) * np.eye(z.shape[1]), z.T @ (target - target.mean())) / scale
        )
        bias = target.mean() - mean @ weight
        head = self.plain.head
        both = np.vstack([head.weight, weight[None]]).astype(np.float32), np.append(head.bias, bias).astype(np.float32)
        self.plain.head = TaskHead(head.task, *both)
        save_head(self.exported.folder, self.plain.head)
        for i, one in enumerate(self.outputs):
            if one is not None:
                self.outputs[i] = Outputs(one.features, one.features @ both[0].T + both[1], one.attention)


def _tokens(readings: Sequence[Any], reader: Preparation) -> NDArray[np.int64]:
    """How many tokens each sample has; 0 for images, and for what is too long."""
    texts = isinstance(reader, Texts)
    return np.array([len(one) if texts and one is not None else 0 for one in readings], dtype=np.int64)


def _batches(tokens: NDArray[np.int64], size: int) -> list[list[int]]:
    """All samples, ordered by length so that little is padded, in batches."""
    order = np.argsort(tokens, kind="stable").tolist()
    return [order[start : start + size] for start in range(0, len(order), size)]
