"""`elastriton tune`: train a task's prompts, judge them beside a control, write the file that `prompts:` names.

Training uses the fit part of the task's data, or other data; accuracies are those of the samples behind the fit part.
The control has about as many trained numbers, as many steps and the same data, but no tokens: where it is as accurate,
prompts are not worth theirs (adapt.py says what both are).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from elastriton.core.errors import ConfigError
from elastriton.core.profile import Accuracy, ImageSpec
from elastriton.generator.adapt import Samples, Training, TunableModel, train_low_rank, train_prompts
from elastriton.generator.config import Config, TaskConfig, resolve
from elastriton.generator.data import Labelled, label_numbers, load_data
from elastriton.generator.evaluate import image_pixels
from elastriton.generator.measure import Advance
from elastriton.generator.prepare import task_head
from elastriton.runtime.models import load_vision

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
    ConfigError where the task is none for prompts, or has no data to judge by.
    """
    task, gammas = _checked(name, config)
    loaded = load_vision(resolve(config.encoders[task.encoder].model, base))
    head, labels = task_head(name, task.model_copy(update={"prompts": None}), loaded.head, base)
    model = TunableModel(loaded, torch.from_numpy(head.weight), torch.from_numpy(head.bias))
    advance("reading the data")
    fit, held_out = _parts(name, task, base, data, loaded.image, labels)
    plain = _accuracy(0, model, held_out)
    layers = 1 if shallow else model.depth
    prompts, losses = train_prompts(model, layers, gammas[-1], fit, training, advance)
    output.parent.mkdir(parents=True, exist_ok=True)
    save_file({"prompts": prompts.half().contiguous()}, output)
    stored = load_file(output)["prompts"].float()
    advance("judging the prompts")
    accuracies = tuple(_accuracy(gamma, model, held_out, stored[:, :gamma]) for gamma in gammas)
    rank = max(1, round(prompts.numel() / (4 * model.width * model.depth)))
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
    if encoder.kind != "vision" or task.objective != "classification":
        raise ConfigError(f"task {name} is no image classification; elastriton tune trains prompts for these alone")
    gammas = sorted(gamma for gamma in encoder.levels if gamma > 0)
    if not gammas:
        raise ConfigError(f"encoder {task.encoder} has no level above 0 in {list(encoder.levels)}; add one, e.g. 4")
    return task, gammas


def _parts(
    name: str, task: TaskConfig, base: Path, data: Path | None, image: ImageSpec, labels: tuple[str, ...]
) -> tuple[Samples, Samples]:
    """The samples to train on, and those to judge by."""
    if task.data is None:
        raise ConfigError(f"task {name} has no `data`, by which its prompts would be judged; give it some")
    own = load_data(base / task.data.path).part(0, task.data.samples)
    n_fit = task.data.n_fit(len(own))
    fit = own.part(0, n_fit) if data is None else load_data(data)
    held_out = own.part(n_fit)
    if not fit.images or not held_out.images:
        raise ConfigError(f"task {name}: there are {len(fit)} images to train on and {len(held_out)} to judge by")
    return _samples(name, fit, image, labels), _samples(name, held_out, image, labels)


def _samples(name: str, data: Labelled, image: ImageSpec, labels: tuple[str, ...]) -> Samples:
    pixels = np.stack(image_pixels(name, data, image))
    return Samples(torch.from_numpy(pixels), torch.from_numpy(label_numbers(data, labels)))


@torch.inference_mode()
def _accuracy(gamma: int, model: TunableModel, samples: Samples, prompts: Tensor | None = None) -> Accuracy:
    predicted = torch.cat([model(pixels, prompts).argmax(dim=1) for pixels in samples.pixels.split(CHUNK)])
    return Accuracy.of(gamma, int((predicted == samples.numbers).sum()), len(predicted))
