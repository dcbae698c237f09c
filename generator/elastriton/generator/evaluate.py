"""Accuracy of a task at every level, on held-out labelled data.

The first samples fit temperatures; accuracies come from the others alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from elastriton.core.confidence import fit_temperature
from elastriton.core.errors import ConfigError, InvalidInput
from elastriton.core.profile import Accuracy, ImageSpec
from elastriton.generator.data import Labelled
from elastriton.generator.measure import Advance, all_logits, check_finite
from elastriton.runtime.executor import Arrays, ElasticExecutor, Floats
from elastriton.runtime.images import decode_image
from elastriton.runtime.texts import Encoding, TextTokenizer, TooLong, pad

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True)
class Evaluation:
    """The logits [n, classes] of a task's data by level, the right classes (or values) [n], the end of the fit part."""

    logits: dict[int, Floats]
    numbers: NDArray[Any]
    n_fit: int

    def temperature(self) -> float:
        """The temperature of the plain level, from the fit part."""
        return fit_temperature(self.logits[0][: self.n_fit], self.numbers[: self.n_fit])

    def accuracies(self) -> tuple[Accuracy, ...]:
        """The accuracy at every level, on the samples behind the fit part."""
        truth = self.numbers[self.n_fit :]
        return tuple(
            Accuracy.of(gamma, int((logits[self.n_fit :].argmax(-1) == truth).sum()), len(truth))
            for gamma, logits in sorted(self.logits.items())
        )


Collate = Callable[[Sequence[int]], Arrays]


def image_batches(data: Labelled, image: ImageSpec) -> tuple[Collate, Sequence[int]]:
    """How to make a batch of some images, and the order to run them in."""
    pixels = image_pixels(data, image)
    return (lambda indices: {"pixels": np.stack([pixels[index] for index in indices])}), range(len(pixels))


def image_pixels(data: Labelled, image: ImageSpec) -> list[NDArray[np.uint8]]:
    """The images as the encoder takes them, uint8 [height, width, 3]. Raises ConfigError for one that is none."""
    return _all_read(lambda encoded: decode_image(encoded, image), data.images, data.names)


def text_batches(data: Labelled, tokenizer_folder: Path, max_length: int, inputs: int) -> tuple[Collate, Sequence[int]]:
    """How to make a batch of some texts, and the order to run them in: by length, to pad little."""
    encodings = text_encodings(data, TextTokenizer(tokenizer_folder, max_length, inputs))
    order = sorted(range(len(encodings)), key=lambda index: len(encodings[index]))
    return (lambda indices: pad([encodings[index] for index in indices])), order


def text_encodings(data: Labelled, tokenizer: TextTokenizer) -> list[Encoding]:
    """The texts as the encoder takes them. Raises ConfigError for one that it cannot read."""
    return _all_read(tokenizer.encode, data.texts, data.names)


def evaluate(
    executor: ElasticExecutor,
    encoder: str,
    task: str,
    batches: tuple[Collate, Sequence[int]],
    numbers: NDArray[Any],
    n_fit: int,
    advance: Advance,
) -> Evaluation:
    """Run the data of a task at every level that the task has; the first `n_fit` samples are for fitting.

    Raises ConfigError, which names the `encoder`, where its answers are no numbers.
    """
    collate, order = batches
    logits = {}
    for gamma, level in executor.levels.items():
        if executor.heads[task].has_prompts(level.prompts):
            logits[gamma] = all_logits(executor, task, gamma, order, collate)
            check_finite(logits[gamma], f"encoder {encoder}, task {task} at level {gamma}")
        advance(f"accuracy of {task} at level {gamma}")
    return Evaluation(logits, numbers, n_fit)


def _all_read(read: Callable[[S], T], samples: Iterable[S], names: Sequence[str]) -> list[T]:
    done, wrong = [], []
    for name, sample in zip(names, samples, strict=True):
        try:
            done.append(read(sample))
        except InvalidInput as error:
            advice = "; raise max_length or shorten the text" if isinstance(error, TooLong) else ""
            wrong.append(f"{name}: {error}{advice}")
    if wrong:
        raise ConfigError(f"{len(wrong)} of the {len(names)} samples cannot be used, e.g. {wrong[0]}")
    return done
