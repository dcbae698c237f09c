"""Two baselines as Triton models: an encoder that is left at the first sure layer, and one that asks for agreement.

bench/cascades.py puts a model.py that imports this file into a repository; nothing of it is part of the product.
Samples of a batch are run together, leave one by one, and each request is answered when its last sample has left.
LEVEL is 0 where an exit (or agreement) answered, and 1 where the last layer did.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from safetensors.numpy import load_file
from scipy.special import log_softmax

from elastriton.core.plan import CascadePlan
from elastriton.runtime import triton
from elastriton.runtime.executor import Arrays
from elastriton.runtime.onnx_encoder import session_options
from elastriton.runtime.reply import Parts, Request, guard
from elastriton.runtime.scheduling import classified
from elastriton.runtime.small import SmallModel
from elastriton.runtime.texts import Encoding, TextTokenizer, pad

Floats = NDArray[Any]


@dataclass(frozen=True)
class Waiting:
    """One sample on its way through the layers."""

    row: tuple[Any, ...]
    encoding: Encoding
    index: int
    parts: Parts


class TritonPythonModel:
    """`exits.json` has either `entropy` (leave below it) or `agree_at` (the layer whose exit must say the same)."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load tokenizer, graphs and exits; for agreement also the small model."""
        folder = triton.version_folder(args)
        self._plan = plan = triton.load_plan(CascadePlan, args)
        self._rule = json.loads((folder / "exits.json").read_text())
        assert plan.tokenizer is not None
        assert plan.text is not None
        self._tokenizer = TextTokenizer(folder / plan.tokenizer.path, plan.text.max_length, plan.inputs)
        graphs = Path(self._rule["graphs"])
        ramps = load_file(graphs / "exits.safetensors")
        self._ramps = [(ramps[f"w.{k}"], ramps[f"b.{k}"]) for k in range(len(ramps) // 2)]
        options = session_options(0, one_arena=False)
        self._layers = [
            onnxruntime.InferenceSession(str(graphs / f"layer_{k}.onnx"), options, providers=["CPUExecutionProvider"])
            for k in range(len(self._ramps) + 1)
        ]
        self._small = SmallModel(plan, 0, folder) if "agree_at" in self._rule else None

    def execute(self, requests: list[Any]) -> None:
        """Answer all requests of the batch."""
        waiting: list[Waiting] = []
        for request in map(triton.read, requests):
            guard(request.reply, lambda request=request: waiting.extend(self._read(request)))  # type: ignore[misc]
        waiting.sort(key=lambda one: len(one.encoding))
        for start in range(0, len(waiting), self._plan.max_batch):
            self._run(waiting[start : start + self._plan.max_batch])

    def finalize(self) -> None:
        """Nothing is left."""

    def _read(self, request: Request) -> list[Waiting]:
        rows = request.inputs["TEXT"]
        parts = Parts(request.reply, len(rows), self._combine)
        return [Waiting(tuple(row), self._tokenizer.encode(tuple(row)), i, parts) for i, row in enumerate(rows)]

    def _run(self, batch: Sequence[Waiting]) -> None:
        said = None
        if self._small is not None:
            opinions = self._small.opinions([self._small.preparation.read(one.row) for one in batch])
            said = np.array([int(opinion.values.argmax()) for opinion in opinions])
        inputs: Arrays = pad([one.encoding for one in batch])
        mask, hidden, here = inputs["attention_mask"], np.empty(0), np.arange(len(batch))
        for number, layer in enumerate(self._layers):
            feed = inputs if number == 0 else {"hidden": hidden, "attention_mask": mask}
            (hidden,) = layer.run(None, {entry.name: feed[entry.name] for entry in layer.get_inputs()})
            if number == len(self._layers) - 1:
                self._answer(batch, here, hidden, 1)
                return
            weight, bias = self._ramps[number]
            logits = hidden[:, 0] @ weight.T + bias
            leaves = self._leaves(number, logits, None if said is None else said[here])
            self._answer(batch, here[leaves], logits[leaves], 0)
            hidden, mask, here = hidden[~leaves], mask[~leaves], here[~leaves]
            if not len(here):
                return

    def _leaves(self, number: int, logits: Floats, said: Floats | None) -> NDArray[np.bool_]:
        if said is not None:
            return np.asarray(logits.argmax(axis=-1) == said) & bool(number == self._rule["agree_at"])
        logs = log_softmax(logits, axis=-1)
        return np.asarray(-(np.exp(logs) * logs).sum(axis=-1) < self._rule["entropy"])

    def _answer(self, batch: Sequence[Waiting], rows: Floats, logits: Floats, level: int) -> None:
        probabilities = np.exp(log_softmax(logits, axis=-1)).astype(np.float32)
        for row, values in zip(rows.tolist(), probabilities, strict=True):
            batch[row].parts.put(batch[row].index, (values, level))

    def _combine(self, results: Sequence[tuple[Floats, int]]) -> Arrays:
        levels = np.array([[level] for _, level in results], dtype=np.int32)
        outputs: Arrays = {"LEVEL": levels, "GAMMA": np.zeros_like(levels), "FALLBACK": np.zeros(levels.shape, bool)}
        return outputs | classified(np.stack([values for values, _ in results]), self._plan.labels)
