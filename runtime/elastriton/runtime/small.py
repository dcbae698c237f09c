"""The small models of a cascade, in its own process: samples in, answers with their confidence out."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from elastriton.core.confidence import Score, confidence, softmax
from elastriton.core.levels import TokenLevel
from elastriton.core.plan import CascadePlan, Objective, SmallPlan
from elastriton.runtime.executor import Floats, example_inputs
from elastriton.runtime.heads import load_head
from elastriton.runtime.onnx_encoder import OnnxEncoder
from elastriton.runtime.preparing import Preparation, preparation

_LOG = logging.getLogger(__name__)
_PLAIN = TokenLevel(0)


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a small model says of a batch: `features` [n, width], `logits` [n, classes], and `attention` [n, tokens].

    For a regression the logits are [n, 2]: the value, and how far from the large model's it is expected to be. Graphs
    of images have no attention.
    """

    features: Floats
    logits: Floats
    attention: Floats | None


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a small model says of one sample: calibrated probabilities [classes] (a regression: [value]), how surely.

    `attention` [tokens] is what the tokens of `sample`, the model's own reading, received.
    """

    values: Floats
    confidence: float
    attention: Floats | None
    level: int

    @property
    def is_finite(self) -> bool:
        """Whether the model computed numbers; else it has said nothing."""
        return bool(np.isfinite(self.values).all()) and math.isfinite(self.confidence)


class PlainModel:
    """An encoder with one head at the plain level, graph and head in one folder."""

    def __init__(self, folder: Path, task: str) -> None:
        self.encoder = OnnxEncoder(folder, [0])
        self.head = load_head(folder, task)
        self._names = ["features", "attention"] if self.encoder.has("attention") else ["features"]

    def run(self, inputs: Any) -> Outputs:
        """One batch."""
        features, *attention = self.encoder.outputs(inputs, _PLAIN, self._names)
        logits = features @ self.head.weight.T + self.head.bias
        return Outputs(features, logits, attention[0] if attention else None)


class SmallModel:
    """One small model of a cascade as its plan describes it."""

    def __init__(self, cascade: CascadePlan, level: int, folder: Path) -> None:
        """`level` counts the small models of `cascade`; `folder` holds the artifacts."""
        plan: SmallPlan = cascade.small[level]
        self.plan = plan
        self.level = level
        self.max_batch = plan.max_batch
        artifact = folder / plan.artifact.path
        self.preparation: Preparation = preparation(cascade.task, plan.text, plan.image, artifact, cascade.inputs)
        self._model = PlainModel(artifact, cascade.task)
        self._score: Score = cascade.score
        self._objective: Objective = cascade.objective
        self._told = False
        length = plan.text.max_length if plan.text else 0
        for batch in (1, plan.max_batch):  # first runs allocate and are slow
            self._model.run(example_inputs(plan.image, batch, length))

    def opinions(self, samples: Sequence[Any]) -> list[Opinion]:
        """What the model says of at most `max_batch` samples of its own preparation."""
        outputs = self._model.run(self.preparation.batch(samples))
        sure = confidence(outputs.logits, self._score, self.plan.temperature, self.plan.power)
        values = answer(outputs.logits, self._objective, self.plan.temperature)
        opinions = [
            Opinion(values[row], float(sure[row]), self._attention(outputs, row, sample), self.level)
            for row, sample in enumerate(samples)
        ]
        if not self._told and not all(opinion.is_finite for opinion in opinions):
            _LOG.error("small model %d returned logits that are not finite; others answer in its place", self.level)
            self._told = True
        return opinions

    def _attention(self, outputs: Outputs, row: int, sample: Any) -> Floats | None:
        return None if outputs.attention is None else outputs.attention[row, : len(sample)]


def answer(logits: Floats, objective: Objective, temperature: float) -> Floats:
    """The values that answers are made of: probabilities [n, classes], or the value [n, 1] of a regression."""
    return logits[:, :1] if objective == "regression" else np.asarray(softmax(logits, temperature))
