"""Models to artifacts: load, export, and write down what the executor needs. The torch half of `elastriton profile`.

<artifacts>/<encoder>/             graphs and weights (ONNX), or the model's own folder (torch)
<artifacts>/<encoder>_tokenizer/   tokenizer.json
<artifacts>/<task>_head/           head and prompts
<artifacts>/<task>_small0/ …       the small models of a cascade: graph, head and tokenizer in one
"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from elastriton.core import names
from elastriton.core.errors import ConfigError
from elastriton.core.levels import TokenLevel, constant_level, merged
from elastriton.core.plan import ExecutorPlan, Kind
from elastriton.core.profile import Artifact, ImageSpec, TextSpec, digest
from elastriton.generator.config import Config, EncoderConfig, TaskConfig, repeated, resolve
from elastriton.generator.export import export_text, export_vision
from elastriton.generator.lora import whole_model
from elastriton.generator.machine import this_machine
from elastriton.generator.measure import Advance
from elastriton.generator.trials import searched
from elastriton.runtime.files import TOKENIZER_FILE, TORCH_FOLDER
from elastriton.runtime.heads import Floats, TaskHead, save_head
from elastriton.runtime.models import Head, TextModel, VisionModel, load_text, load_vision
from elastriton.runtime.torch_encoder import default_precision, serving_device


@dataclass(frozen=True)
class PreparedEncoder:
    """An exported encoder with the heads of its tasks, ready to run on `device`, "cpu" or "cuda:0"."""

    plan: ExecutorPlan
    tokens: int
    labels: dict[str, tuple[str, ...]]
    tokenizer: Artifact | None
    device: str = "cpu"
    own_labels: tuple[str, ...] = ()
    """Of the model's own head, in its words; a task may have others for them."""


def prepare_encoder(name: str, config: Config, base: Path, artifacts: Path, advance: Advance) -> PreparedEncoder:
    """Load and export one encoder and the heads of its tasks. Raises ConfigError where they do not fit together."""
    encoder = config.encoders[name]
    tasks = {task_name: task for task_name, task in config.tasks.items() if task.encoder == name}
    with whole_model(resolve(encoder.model, base)) as source:
        return _prepare(name, encoder, tasks, source, base, artifacts, advance)


def _prepare(
    name: str,
    encoder: EncoderConfig,
    tasks: dict[str, TaskConfig],
    source: str,
    base: Path,
    artifacts: Path,
    advance: Advance,
) -> PreparedEncoder:
    model = load_vision(source) if encoder.kind == "vision" else load_text(source)
    levels = tuple(constant_level(gamma, model.depth) for gamma in sorted(encoder.levels))
    if isinstance(model, TextModel):
        for level in levels:
            model.encoder.check(level)
    else:
        _check_merging(name, encoder, model)
    heads = {task_name: task_head(task_name, task, model.head, base) for task_name, task in tasks.items()}
    most = max(head.prompt_count() for head, _ in heads.values())
    if max(encoder.levels) > most:
        raise ConfigError(f"encoder {name} has level {max(encoder.levels)}, but no task has more than {most} prompts")
    if isinstance(model, VisionModel) and encoder.schedule == "search" and min(encoder.levels) < 0:
        levels = searched(name, levels, model, encoder, tasks, heads, base, advance)
    device = serving_device() if encoder.runtime == "torch" else "cpu"
    advance(f"export of {name}")
    folder = _fresh(artifacts / name)
    if encoder.runtime == "torch":
        _copy_model(source, folder / TORCH_FOLDER)
    elif isinstance(model, VisionModel):
        image = (model.image.height, model.image.width)
        export_vision(model.encoder, levels, image, _prompt_layers(heads), folder)
    else:
        export_text(model.encoder, levels, folder, prompt_shape=(_prompt_layers(heads), model.width))
    plan = ExecutorPlan(
        kind=encoder.kind,
        runtime=encoder.runtime,
        artifact=_artifact(folder, artifacts),
        heads={task_name: _save(head, artifacts) for task_name, (head, _) in heads.items()},
        levels=levels,
        depth=model.depth,
        width=model.width,
        classes=max(len(head.bias) for head, _ in heads.values()),
        max_batch=max(encoder.batches),
        image=model.image if isinstance(model, VisionModel) else None,
        instances=encoder.instances,
        threads=max(1, this_machine().cores // encoder.instances) if encoder.instances > 1 else 0,
        text=_text(encoder, model) if isinstance(model, TextModel) else None,
        precision=encoder.precision or default_precision(device),
        lengths=tuple(sorted(n for n in encoder.lengths if n <= encoder.max_length)) if encoder.kind == "text" else (),
    )
    tokens = model.tokens if isinstance(model, VisionModel) else encoder.max_length
    tokenizer = None
    if plan.text is not None:
        save_tokenizer(source, artifacts / names.tokenizer(name))
        tokenizer = _artifact(artifacts / names.tokenizer(name), artifacts)
    labels = {task_name: labels for task_name, (_, labels) in heads.items()}
    return PreparedEncoder(plan, tokens, labels, tokenizer, device, model.head.labels if model.head else ())


@dataclass(frozen=True)
class PreparedSmall:
    """An exported small model: graph, head and tokenizer in one folder; a text of up to `max_length` tokens fits."""

    folder: Path
    image: ImageSpec | None
    max_length: int


def prepare_small(
    task_name: str,
    number: int,
    model: str,
    kind: Kind,
    alike: Collection[tuple[str, ...]],
    base: Path,
    artifacts: Path,
) -> PreparedSmall:
    """Load and export a small model of a cascade. Raises ConfigError where its labels are none of `alike`.

    These are the task's, in its words and in the large model's; the empty ones of a regression allow one output.
    """
    folder = _fresh(artifacts / names.small(task_name, number))
    with whole_model(resolve(model, base)) as source:
        small = load_vision(source) if kind == "vision" else load_text(source)
        if small.head is None:
            raise ConfigError(
                f"small model {model} of task {task_name} has no trained head of its own; fine-tune it first"
            )
        if not (len(small.head.bias) == 1 if () in alike else small.head.labels in alike):
            raise ConfigError(
                f"small model {model} of task {task_name} has other labels than the large one, or another order: "
                f"{', '.join(small.head.labels[:5])}, …"
            )
        if isinstance(small, VisionModel):
            export_vision(small.encoder, (TokenLevel(0),), (small.image.height, small.image.width), 1, folder)
        else:
            export_text(small.encoder, (TokenLevel(0),), folder, attention=True)
            save_tokenizer(source, folder)
        save_head(folder, TaskHead(task_name, small.head.weight, small.head.bias))
    if isinstance(small, VisionModel):
        return PreparedSmall(folder, small.image, 0)
    return PreparedSmall(folder, None, small.max_length)


def task_head(name: str, task: TaskConfig, own: Head | None, base: Path) -> tuple[TaskHead, tuple[str, ...]]:
    """The head of a task (its own file's, else the model's) with its prompts, and the labels in its order."""
    if task.head is not None:
        weight, bias = _tensors(base / task.head, f"task {name}: head", "weight", "bias")
        labels = task.labels or ()
    elif own is not None:
        weight, bias, labels = own.weight, own.bias, task.labels or own.labels
    else:
        raise ConfigError(
            f"task {name}: the model has no trained head of its own; fine-tune it, or give the task a `head` file"
        )
    classes = 0 if task.objective == "regression" else len(labels)
    if task.objective == "classification" and len(bias) < 2:
        raise ConfigError(f"task {name}: the head has {len(bias)} output(s); is this an `objective: regression`?")
    if len(bias) != max(classes, 1):
        raise ConfigError(f"task {name}: the head has {len(bias)} outputs for {classes} labels; give the task `labels`")
    if classes and (twice := repeated(labels)):
        raise ConfigError(f"task {name}: the model's labels name {twice[0]!r} twice; give the task `labels` of its own")
    prompts: Floats | None = None
    if task.prompts is not None:
        (prompts,) = _tensors(base / task.prompts, f"task {name}: prompts (`elastriton tune` writes them)", "prompts")
    return TaskHead(name, weight, bias, prompts), tuple(labels) if classes else ()


def _tensors(file: Path, what: str, *names: str) -> list[Floats]:
    """Tensors of a safetensors file as float32. Raises ConfigError where it is missing, malformed, or lacks one."""
    try:
        tensors = load_file(file)
        return [tensors[name].astype(np.float32) for name in names]
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{what}: {file} cannot be read: {error}") from None
    except KeyError as error:
        raise ConfigError(f"{what}: {file} has no tensor {error}; it needs {', '.join(names)}") from None


def _check_merging(name: str, encoder: EncoderConfig, model: VisionModel) -> None:
    wanted = -min(encoder.levels)
    most = merged(model.tokens, wanted, model.encoder.prefix)
    if wanted > most:
        raise ConfigError(
            f"encoder {name} has level {-wanted}, but of the model's {model.tokens} tokens a layer can merge {most} "
            f"at most; use levels from -{most} up"
        )


def _prompt_layers(heads: dict[str, tuple[TaskHead, tuple[str, ...]]]) -> int:
    layers = {head.prompts.shape[0] for head, _ in heads.values() if head.prompts is not None}
    if len(layers) > 1:
        raise ConfigError(f"the tasks of one encoder have prompts for {sorted(layers)} layers; they must agree")
    return layers.pop() if layers else 1


def _text(encoder: EncoderConfig, model: TextModel) -> TextSpec:
    if encoder.max_length > model.max_length:
        raise ConfigError(f"max_length {encoder.max_length} is above the {model.max_length} positions of the model")
    return TextSpec(encoder.max_length, model.encoder.vocabulary, model.encoder.segments)


def save_tokenizer(source: str, folder: Path) -> None:
    """Write a model's tokenizer.json to `folder`. Raises ConfigError where the model has none."""
    from transformers import AutoTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except Exception as error:  # whatever a library says of a broken file
        raise ConfigError(f"the tokenizer of model {source} cannot be loaded: {error}") from error
    if not tokenizer.is_fast:
        raise ConfigError(f"model {source} has no fast tokenizer (tokenizer.json); convert it with transformers first")
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # transformers makes one without words where there is no file
        raise ConfigError(f"model {source} has no tokenizer; save it beside the model (tokenizer.save_pretrained)")
    tokenizer.backend_tokenizer.save(str(folder / TOKENIZER_FILE))


def _save(head: TaskHead, artifacts: Path) -> Artifact:
    folder = _fresh(artifacts / names.head(head.task))
    save_head(folder, head)
    return _artifact(folder, artifacts)


def _copy_model(source: str, folder: Path) -> None:
    if not Path(source).is_dir():
        raise ConfigError(f"runtime torch needs a local model folder, not the id {source!r}; download it first")
    shutil.copytree(source, folder)


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _artifact(folder: Path, artifacts: Path) -> Artifact:
    return Artifact(folder.relative_to(artifacts).as_posix(), digest(folder))
