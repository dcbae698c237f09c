"""Run one encoder at a token level, for samples of any of its tasks: the engine inside backends/elastic.

`Encoder` is what differs between runtimes (onnx_encoder.py on a CPU, torch_encoder.py on a GPU); gathering prompts and
applying heads per sample is the same for both and stands here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from elastriton.core.errors import InvalidInput
from elastriton.core.levels import TokenLevel
from elastriton.core.plan import ExecutorPlan
from elastriton.core.profile import ImageSpec
from elastriton.runtime.buckets import Buckets
from elastriton.runtime.heads import TaskHead, load_head

Arrays = dict[str, NDArray[np.generic]]
Floats = NDArray[np.float32]


class Encoder(Protocol):
    """One encoder in one runtime: inputs of one batch at one level -> features [batch, width]."""

    def features(self, inputs: Arrays, level: TokenLevel) -> Floats:
        """`inputs` holds `pixels` (and `prompts`), or `input_ids`, `attention_mask` and `token_type_ids`."""
        ...


class ElasticExecutor:
    """An encoder with its tasks: inputs and the task of every sample -> logits."""

    def __init__(
        self, encoder: Encoder, heads: dict[str, TaskHead], levels: Sequence[TokenLevel], max_batch: int
    ) -> None:
        self.encoder = encoder
        self.heads = heads
        self.levels = {level.gamma: level for level in levels}
        self.max_batch = max_batch
        self.classes = max(head.bias.shape[0] for head in heads.values())

    def logits(self, inputs: Arrays, tasks: Sequence[str], gamma: int) -> Floats:
        """Logits [batch, classes] of a batch; classes beyond a task's own are -inf.

        Raises InvalidInput for an unknown task or level, a task without prompts at gamma > 0, or too large a batch.
        """
        level = self.levels.get(gamma)
        if level is None:
            raise InvalidInput(f"level {gamma} is unknown; this encoder has {sorted(self.levels)}")
        if len(tasks) > self.max_batch:
            raise InvalidInput(f"the batch has {len(tasks)} samples, at most {self.max_batch} are allowed")
        heads = [self._head(task) for task in tasks]
        if level.prompts:
            inputs = {**inputs, "prompts": np.stack([head.prompts_for(level.prompts) for head in heads])}
        features = self.encoder.features(inputs, level)
        logits = np.full((len(tasks), self.classes), -np.inf, dtype=np.float32)
        for task in dict.fromkeys(tasks):
            rows = [row for row, other in enumerate(tasks) if other == task]
            head = self.heads[task]
            logits[np.ix_(rows, range(len(head.bias)))] = features[rows] @ head.weight.T + head.bias
        return logits

    def warm_up(self, examples: Iterable[Arrays]) -> None:
        """Run every level once with each of the examples: first runs allocate and are slow."""
        for example in examples:
            batch = len(next(iter(example.values())))
            for gamma, level in self.levels.items():
                prompted = [name for name, head in self.heads.items() if head.has_prompts(level.prompts)]
                if prompted:
                    self.logits(example, [prompted[0]] * batch, gamma)

    def _head(self, task: str) -> TaskHead:
        if task not in self.heads:
            raise InvalidInput(f"task {task!r} is unknown; this encoder serves {', '.join(sorted(self.heads))}")
        return self.heads[task]


def example_inputs(image: ImageSpec | None, batch: int, length: int) -> Arrays:
    """A batch of random inputs as the encoder takes them: images of the given size, or texts of `length` tokens."""
    generator = np.random.default_rng(0)
    if image is not None:
        return {"pixels": generator.integers(0, 256, (batch, image.height, image.width, 3), dtype=np.uint8)}
    ids = generator.integers(0, 4, (batch, length), dtype=np.int64)  # small: every vocabulary has them
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def graph_buckets(plan: ExecutorPlan, device: str) -> Buckets | None:
    """The shapes that batches are padded to and CUDA graphs captured for; None where there are no graphs."""
    if plan.runtime != "torch" or not device.startswith("cuda"):
        return None
    return Buckets.up_to(plan.max_batch, plan.lengths or ((plan.text.max_length,) if plan.text else ()))


def warm_up_examples(plan: ExecutorPlan, device: str = "cpu") -> Iterator[Arrays]:
    """Inputs to warm up with: one sample and a full batch, or every bucket where CUDA graphs are to be captured."""
    buckets, longest = graph_buckets(plan, device), plan.text.max_length if plan.text else 0
    for batch, length in buckets.shapes() if buckets else [(1, longest), (plan.max_batch, longest)]:
        yield example_inputs(plan.image, batch, length)


def load_executor(plan: ExecutorPlan, folder: Path, device: str = "cpu") -> ElasticExecutor:
    """Build the executor of a plan whose artifacts lie below `folder`; `device` is "cpu" or "cuda:0"."""
    heads = {task: load_head(folder / artifact.path, task) for task, artifact in plan.heads.items()}
    encoder_folder = folder / plan.artifact.path
    encoder: Encoder
    if plan.runtime == "torch":
        from elastriton.runtime.torch_encoder import TorchEncoder

        encoder = TorchEncoder(encoder_folder, plan.kind, device, plan.precision, graph_buckets(plan, device))
    else:
        from elastriton.runtime.onnx_encoder import OnnxEncoder

        encoder = OnnxEncoder(encoder_folder, [level.gamma for level in plan.levels], plan.threads)
    return ElasticExecutor(encoder, heads, plan.levels, plan.max_batch)
