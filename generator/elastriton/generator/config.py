"""elastriton.yaml: the one configuration file, validated whole before anything runs.

Paths are relative to the file. Unknown keys are errors that name the nearest key.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import ErrorDetails

from elastriton.core.errors import ConfigError
from elastriton.core.names import MAX_SMALL, NAME, clashes
from elastriton.core.parameters import MAX_SLO_MS, MAX_UTILITY
from elastriton.core.policies import POLICIES

T = TypeVar("T")

Name = Annotated[str, Field(pattern=NAME, max_length=64)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth(cls, value: Any, info: ValidationInfo) -> Any:
        values = value if isinstance(value, list) else [value]
        wanted = cls.model_fields[info.field_name].annotation if info.field_name else None
        if wanted is not bool and any(isinstance(one, bool) for one in values):
            raise ValueError("true and false (to YAML also yes, no, on, off) are no value here; quote what is a text")
        return value


class EncoderConfig(_Strict):
    """One resident encoder: a timm or Hugging Face id or local folder, and the grid to measure it on.

    `instances` of it run side by side as one pool and share the cores, or one GPU: a plan is for one device.
    A level -r takes the time of r tokens merged in every layer, and with `schedule: constant` it is just that; `search`
    looks for the lists that change answers least in that time (generator/schedules.py). `precision` is for torch, by
    default fp16 on CUDA and fp32 on a CPU.
    """

    kind: Literal["vision", "text"]
    model: str
    runtime: Literal["onnxruntime", "torch"] = "onnxruntime"
    precision: Literal["fp32", "fp16", "bf16"] | None = None
    instances: Annotated[int, Field(ge=1, le=64)] = 1
    levels: tuple[int, ...] = (0,)
    schedule: Literal["constant", "search"] = "constant"
    batches: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 2, 4, 8, 16, 32)
    max_length: Annotated[int, Field(ge=2, le=512)] = 128
    lengths: tuple[Annotated[int, Field(ge=2)], ...] = (16, 32, 64, 128)

    @model_validator(mode="after")
    def _check(self) -> EncoderConfig:
        if 0 not in self.levels:
            raise ValueError(f"levels {list(self.levels)} lack 0, the plain encoder")
        if twice := repeated(self.levels):
            raise ValueError(f"levels {list(self.levels)} name {twice[0]} twice; each is measured once")
        if self.kind == "text" and min(self.levels) < -50:
            raise ValueError(
                f"levels {list(self.levels)}: text encoders take -50 to 0, the per cent of tokens that a layer merges, "
                "and numbers of prompts above"
            )
        if self.schedule == "search" and (self.kind != "vision" or self.runtime != "onnxruntime"):
            raise ValueError("schedule 'search' is for vision encoders in onnxruntime; use 'constant'")
        if self.precision not in (None, "fp32") and self.runtime != "torch":
            raise ValueError(f"precision {self.precision!r} is for runtime 'torch'; exported graphs are fp32")
        if self.kind == "text" and self.max_length not in self.lengths:
            raise ValueError(f"lengths {list(self.lengths)} must contain max_length {self.max_length}")
        return self


class DataConfig(_Strict):
    """Labelled data: `samples` of a file or folder, drawn at random (generator/data.py says which kinds)."""

    path: str
    samples: Count = 2000
    fit_share: Annotated[float, Field(gt=0, lt=1)] = 0.3

    def n_fit(self, n: int) -> int:
        """How many of `n` samples, the first ones, things are fitted or chosen on; the others judge."""
        return max(1, int(n * self.fit_share))


class AuditConfig(_Strict):
    """Audit a `share` of the early answers by the large model; raise an alarm where they differ more than certified.

    `tolerance` is added to the certified share of differences, `delta` bounds the chance of ever raising a false alarm.
    """

    share: Annotated[float, Field(gt=0, le=1)] = 0.02
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.02
    delta: Annotated[float, Field(gt=0, lt=1)] = 0.01
    fall_back: bool = False


class CascadeConfig(_Strict):
    """Small models in front of the task's encoder, and what their early answers may cost.

    Give either `max_drop` (0.01 = 1 point below the large model alone) or `target_accuracy`; the plan keeps it with
    probability 1 - `delta`, or does without the small models. For regressions both are about the mean absolute error
    over the range of the labels. `models` are candidates, smallest first, of which up to `depth` answer in turn.
    `scales` and `keep_rates` are ways to prune the words of re-routed texts (core/pruning.py) that `plan` may choose.
    """

    models: Annotated[tuple[str, ...], Field(min_length=1, max_length=MAX_SMALL)]
    depth: Literal[1, 2] = 1
    max_length: Annotated[int, Field(ge=2, le=512)] = 128
    max_drop: Annotated[float, Field(gt=0, lt=1)] | None = None
    target_accuracy: Annotated[float, Field(gt=0, lt=1)] | None = None
    delta: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    score: Literal["max", "margin", "pnorm"] = "max"
    scales: tuple[Annotated[float, Field(gt=0, le=2)], ...] = ()
    keep_rates: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    floor: Count = 4
    never_prune: tuple[str, ...] = ()
    audit: AuditConfig | None = None

    @model_validator(mode="after")
    def _check(self) -> CascadeConfig:
        if (self.max_drop is None) == (self.target_accuracy is None):
            raise ValueError("give one of max_drop and target_accuracy")
        return self


class TaskConfig(_Strict):
    """One task: a head and perhaps prompts on an encoder, its deadline, and what an answer in time is worth.

    `floor` is the least share of its requests to answer in time, even where other tasks would be worth more.
    """

    encoder: Name
    slo_ms: Annotated[float, Field(gt=0, le=MAX_SLO_MS)]
    utility: Annotated[float, Field(gt=0, le=MAX_UTILITY)] = 1.0
    floor: Annotated[float, Field(ge=0, lt=1)] = 0.0
    objective: Literal["classification", "regression"] = "classification"
    inputs: Literal[1, 2] = 1
    labels: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    head: str | None = None
    prompts: str | None = None
    data: DataConfig | None = None
    cascade: CascadeConfig | None = None

    @model_validator(mode="after")
    def _check(self) -> TaskConfig:
        if twice := repeated(self.labels or ()):
            raise ValueError(f"labels name {twice[0]!r} twice; give each class a name of its own")
        return self


class Config(_Strict):
    """The whole file."""

    version: Literal[1]
    encoders: Annotated[dict[Name, EncoderConfig], Field(min_length=1)]
    tasks: Annotated[dict[Name, TaskConfig], Field(min_length=1)]
    seed: Annotated[int, Field(ge=0)] = 0
    policy: str = "joint"
    max_queue: Count = 1024
    overhead_ms: Annotated[float, Field(ge=0)] = 3.0

    @model_validator(mode="after")
    def _check(self) -> Config:
        if self.policy not in POLICIES:
            raise ValueError(f"policy {self.policy!r} is unknown; choose one of {', '.join(sorted(POLICIES))}")
        for name, encoder in self.encoders.items():
            if max(encoder.batches) > self.max_queue:
                raise ValueError(
                    f"max_queue {self.max_queue} is below {max(encoder.batches)}, the largest batch of encoder {name}: "
                    "a request of that size would never be admitted"
                )
        for name, task in self.tasks.items():
            if task.encoder not in self.encoders:
                raise ValueError(f"task {name} names encoder {task.encoder!r}; there are {', '.join(self.encoders)}")
            kind, highest = self.encoders[task.encoder].kind, max(self.encoders[task.encoder].levels)
            if kind == "vision" and task.inputs != 1:
                raise ValueError(f"task {name} is a vision task; inputs are for text tasks")
            if task.cascade is not None:
                _check_cascade(name, kind, task, task.cascade)
            if task.cascade is not None and task.cascade.audit is not None and highest > 0:
                raise ValueError(
                    f"task {name}: an audit compares with level 0, but an encoder with time for audits answers at "
                    f"level {highest}; leave out audit, or the levels above 0 of encoder {task.encoder}"
                )
        for name in self.encoders:
            if all(task.encoder != name for task in self.tasks.values()):
                raise ValueError(f"encoder {name} has no task; remove it or give it one")
        for clash in clashes(self.encoders, self.tasks):
            raise ValueError(clash)
        return self


def _check_cascade(name: str, kind: str, task: TaskConfig, cascade: CascadeConfig) -> None:
    if task.data is None:
        raise ValueError(f"task {name} has a cascade but no data to certify it with")
    if kind == "vision" and (cascade.scales or cascade.keep_rates):
        raise ValueError(f"task {name} is a vision task; scales and keep_rates prune words")
    if task.objective == "regression" and (cascade.audit or cascade.score != "max"):
        raise ValueError(f"task {name} is a regression; audit and score need classes")


class _Loader(yaml.SafeLoader):
    """Of two equal keys YAML's own loader keeps the second in silence; lists as keys, and NUL, end in tracebacks."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Raises YAMLError where a key is given twice, or is no scalar."""
        seen: set[Any] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be plain text", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        """Raises YAMLError where a text has a NUL, which no path and no name may."""
        if "\0" in node.value:
            raise yaml.constructor.ConstructorError(None, None, "a text must not contain NUL (\\0)", node.start_mark)
        return super().construct_scalar(node)


def load_config(path: Path) -> Config:
    """Read elastriton.yaml. Raises ConfigError with one line for each thing that is wrong."""
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; pass the configuration with --config") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path} is nested too deeply; a configuration has about five levels") from None
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        lines = "\n".join(f"  {_line(detail)}" for detail in error.errors())
        raise ConfigError(f"{path} has {error.error_count()} mistake(s):\n{lines}") from None


def repeated(values: Sequence[T]) -> list[T]:
    """The values that an earlier one equals."""
    return [value for place, value in enumerate(values) if value in values[:place]]


def resolve(model: str, base: Path) -> str:
    """A model's name as its library takes it: the path of a folder below `base` if there is one, else an id."""
    folder = base / model
    if folder.is_dir():
        return str(folder.resolve())
    if model.startswith((".", "/")):
        raise ConfigError(f"model folder {folder} does not exist")
    return model


def _line(detail: ErrorDetails) -> str:
    where = ".".join(str(part) for part in detail["loc"] if part != "[key]") or "the file"
    if detail["type"] != "extra_forbidden":
        return f"{where}: {detail['msg'].removeprefix('Value error, ')}" + _seen(detail["input"])
    key = str(detail["loc"][-1])
    near = difflib.get_close_matches(key, _known_keys(detail["loc"][:-1]), n=1)
    return f"{where}: there is no key {key!r}" + (f"; did you mean {near[0]!r}?" if near else "")


def _seen(value: Any) -> str:
    return f" (seen: {value!r})" if isinstance(value, str | int | float) else ""


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    parents: dict[str, type[BaseModel]] = {"encoders": EncoderConfig, "tasks": TaskConfig}
    leaves: dict[str, type[BaseModel]] = {"data": DataConfig, "cascade": CascadeConfig, "audit": AuditConfig}
    model: type[BaseModel] = Config
    if location:
        model = leaves.get(str(location[-1])) or parents.get(str(location[0]), Config)
    return list(model.model_fields)
