"""`elastriton tune`: train a task's prompts, judge them beside a control, write the file that `prompts:` names.

Training uses the fit part of the task's data, or other data; accuracies are those of the samples behind the fit part.
The control has about as many trained numbers, as many steps and the same data, but no tokens: where it is as accurate,
prompts are not worth theirs (adapt.py says what both are).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from elastriton.core.errors import ConfigError
from elastriton.core.levels import constant_level
from elastriton.core.profile import Accuracy, ImageSpec
from elastriton.generator.adapt import Training, train_low_rank, train_prompts
from elastriton.generator.config import Config, EncoderConfig, TaskConfig, resolve
from elastriton.generator.data import Labelled, label_numbers, load_data
from elastriton.generator.evaluate import image_pixels, text_encodings
from elastriton.generator.lora import whole_model
from elastriton.generator.measure import Advance
from elastriton.generator.prepare import save_tokenizer, task_head
from elastriton.generator.samples import check_kind, rows
from elastriton.generator.splits import item_hash
from elastriton.generator.tunable import ImageSamples, Samples, TextSamples, Tunable, TunableText, TunableVision
from elastriton.runtime.models import load_text, load_vision
from elastriton.runtime.texts import TextTokenizer

CHUNK = 250


@dataclass(frozen=True, slots=True)
class Trained:
    """One trained variant: how many numbers were trained, in how many steps, and its accuracy at each level."""

    parameters: int
    steps: int
    accuracy: tuple[Accuracy, ...]


@dataclass(frozen=True, slots=True)
class Tuning:
    """What came out: the accuracy of the plain level, of the prompts by level, and of the control at level 0."""

    task: str
    layers: int
    n_train: int
    plain: Accuracy
    prompts: Trained
    control: Trained

    def losses(self) -> tuple[Accuracy, ...]:
        """The levels whose prompts do worse than the plain level, beyond its 95 % interval."""
        return tuple(point for point in self.prompts.accuracy if point.accuracy < self.plain.low)


def tune(
    name: str,
    config: Config,
    base: Path,
    output: Path,
    *,
    data: Path | None,
    shallow: bool,
    training: Training,
    advance: Advance,
) -> Tuning:
    """Train as many prompts as the highest level of the task's encoder has and write them to `output`.

    `base` is the folder that the configuration's paths start from; `data` holds other samples to train on. Raises
    ConfigError where the task is none for prompts, or has no data to judge by that are not trained on, too.
    """
    task, gammas = _checked(name, config)
    advance("reading the data")
    model, fit, held_out = _read(name, task, config.encoders[task.encoder], base, data)
    plain = _accuracy(0, model, held_out)
    layers = 1 if shallow else model.depth
    prompts, losses = train_prompts(model, layers, gammas[-1], fit, training, advance)
    output.parent.mkdir(parents=True, exist_ok=True)
    save_file({"prompts": prompts.half().contiguous()}, output)
    stored = load_file(output)["prompts"].float()
    advance("judging the prompts")
    accuracies = tuple(_accuracy(gamma, model, held_out, stored[:, :gamma]) for gamma in gammas)
    rank = max(1, round(prompts.numel() / (4 * model.width * model.depth)))  # of [w, 3 w], or of two [w, w], per layer
    trained, control_losses = train_low_rank(model, rank, len(losses), fit, training, advance)
    control = Trained(trained, len(control_losses), (_accuracy(0, model, held_out),))
    return Tuning(
        task=name,
        layers=layers,
        n_train=len(fit.numbers),
        plain=plain,
        prompts=Trained(prompts.numel(), len(losses), accuracies),
        control=control,
    )


def prompts_file(name: str, config: Config, base: Path, output: Path | None) -> Path:
    """Where the prompts go: to `output`, else to the task's `prompts`. Raises ConfigError where neither is given."""
    if output is not None:
        return output
    task = config.tasks.get(name)
    if task is None or task.prompts is None:
        raise ConfigError(f"task {name} names no file of prompts; give it `prompts`, or pass --output")
    return base / task.prompts


def _checked(name: str, config: Config) -> tuple[TaskConfig, list[int]]:
    task = config.tasks.get(name)
    if task is None:
        raise ConfigError(f"there is no task {name!r}; the configuration has {', '.join(config.tasks)}")
    encoder = config.encoders[task.encoder]
    if task.objective != "classification":
        raise ConfigError(f"task {name} is no classification; elastriton tune trains prompts for these alone")
    gammas = sorted(gamma for gamma in encoder.levels if gamma > 0)
    if not gammas:
        raise ConfigError(f"encoder {task.encoder} has no level above 0 in {list(encoder.levels)}; add one, e.g. 4")
    return task, gammas


def _read(
    name: str, task: TaskConfig, encoder: EncoderConfig, base: Path, data: Path | None
) -> tuple[Tunable, Samples, Samples]:
    """The model, the samples to train on, and those to judge by."""
    if task.data is None:
        raise ConfigError(f"task {name} has no `data`, by which its prompts would be judged; give it some")
    own = load_data(base / task.data.path).part(0, task.data.samples)
    check_kind(name, encoder.kind, own, task.data.path)
    n_fit = task.data.n_fit(len(own))
    parts = own.part(0, n_fit) if data is None else load_data(data), own.part(n_fit)
    if data is not None:
        check_kind(name, encoder.kind, parts[0], data)
    _check_unseen(name, *parts)
    plain = task.model_copy(update={"prompts": None})
    with whole_model(resolve(encoder.model, base)) as source, TemporaryDirectory() as scratch:
        if encoder.kind == "vision":
            vision = load_vision(source)
            head, labels = task_head(name, plain, vision.head, base)
            model: Tunable = TunableVision(vision, head.weight, head.bias)
            fit, held_out = (_images(part, vision.image, labels) for part in parts)
        else:
            text = load_text(source)
            text.encoder.check(constant_level(max(encoder.levels), text.depth))
            head, labels = task_head(name, plain, text.head, base)
            model = TunableText(text, head.weight, head.bias)
            save_tokenizer(source, Path(scratch))
            tokenizer = TextTokenizer(Path(scratch), encoder.max_length, task.inputs)
            fit, held_out = (_texts(part, tokenizer, labels) for part in parts)
    return model, fit, held_out


def _check_unseen(name: str, fit: Labelled, held_out: Labelled) -> None:
    """Raise ConfigError where a sample to judge by is one to train on as well."""
    trained_on = {item_hash(row) for row in rows(fit)}
    shared = [at for at, row in zip(held_out.names, rows(held_out), strict=True) if item_hash(row) in trained_on]
    if shared:
        raise ConfigError(
            f"task {name}: {len(shared)} of the {len(held_out)} samples to judge by, e.g. {shared[0]}, are among those "
            "to train on; remove duplicates from the data, or give others with --data"
        )


def _images(data: Labelled, image: ImageSpec, labels: tuple[str, ...]) -> Samples:
    pixels = image_pixels(data, image)
    numbers = label_numbers(data, labels)
    return ImageSamples(torch.from_numpy(np.array(pixels, dtype=np.uint8)), torch.from_numpy(numbers))


def _texts(data: Labelled, tokenizer: TextTokenizer, labels: tuple[str, ...]) -> Samples:
    encodings = text_encodings(data, tokenizer)
    return TextSamples(encodings, torch.from_numpy(label_numbers(data, labels)))


@torch.inference_mode()
def _accuracy(gamma: int, model: Tunable, samples: Samples, prompts: Tensor | None = None) -> Accuracy:
    chunks = torch.arange(len(samples.numbers)).split(CHUNK)
    predicted = torch.cat([model(samples.batch(index), prompts).argmax(dim=1) for index in chunks])
    return Accuracy.of(gamma, int((predicted == samples.numbers).sum()), len(predicted))
