"""Plan to config.pbtxt, through the protobuf and never by string. Every config is complete."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from elastriton.core.plan import CascadePlan, DecoderPlan, ExecutorPlan, PublicTask, SchedulerPlan

Spec = tuple[str, str, Sequence[int]]

TASK: Spec = ("TASK", "STRING", [1])
LABEL: Spec = ("LABEL", "STRING", [1])
SCORE: Spec = ("SCORE", "FP32", [1])
LEVEL: Spec = ("LEVEL", "INT32", [1])
GAMMA: Spec = ("GAMMA", "INT32", [1])
FALLBACK: Spec = ("FALLBACK", "BOOL", [1])
CASCADE: tuple[Spec, ...] = (LEVEL, GAMMA, FALLBACK)
TOKENS: tuple[Spec, ...] = tuple((name, "INT64", [-1]) for name in ("INPUT_IDS", "ATTENTION_MASK", "TOKEN_TYPE_IDS"))


def configs(parts: Mapping[str, Any]) -> dict[str, pb.ModelConfig]:
    """The configuration of every served model, by name, from its part of a plan."""
    return {name: config(name, parts) for name in parts}


def config(name: str, parts: Mapping[str, Any]) -> pb.ModelConfig:
    """The configuration of one served model; `parts` has those that it calls, too."""
    part = parts[name]
    if isinstance(part, ExecutorPlan):
        return _executor(name, part)
    if isinstance(part, SchedulerPlan):
        return _scheduler(name, part, parts[part.executor])
    if isinstance(part, DecoderPlan):
        return _decoder(name, part, parts[part.task].max_batch)
    return _cascade(name, part) if isinstance(part, CascadePlan) else _ensemble(name, part)


def render(config: pb.ModelConfig) -> str:
    """The text of a config.pbtxt."""
    return str(text_format.MessageToString(config, as_utf8=True, use_short_repeated_primitives=True))


def _executor(name: str, plan: ExecutorPlan) -> pb.ModelConfig:
    outputs: list[Spec] = [("LOGITS", "FP32", [plan.classes])]
    kind = "KIND_AUTO" if plan.runtime == "torch" else "KIND_CPU"
    return _model(name, "elastic", plan.max_batch, [*_data(plan), TASK], outputs, kind, plan.instances)


def _scheduler(name: str, plan: SchedulerPlan, executor: ExecutorPlan) -> pb.ModelConfig:
    outputs = [*_answers({task.objective for task in plan.tasks.values()}, -1), GAMMA]
    return _model(name, "elastic_scheduler", plan.max_batch, [*_data(executor), TASK], outputs)


def _decoder(name: str, plan: DecoderPlan, max_batch: int) -> pb.ModelConfig:
    pixels: Spec = ("PIXELS", "UINT8", [plan.image.height, plan.image.width, 3])
    inputs: list[Spec] = [("IMAGE", "STRING", [1])]
    return _model(name, "decode_image", max_batch, inputs, [pixels, TASK], count=plan.instances)


def _cascade(name: str, plan: CascadePlan) -> pb.ModelConfig:
    outputs = [*_answers({plan.objective}, len(plan.labels)), *CASCADE]
    config = _model(name, "cascade", plan.max_batch, [_source(plan)], outputs)
    config.dynamic_batching.SetInParent()  # several requests per execute(); no queue policy, see docs/ARCHITECTURE.md
    return config


def _ensemble(name: str, task: PublicTask) -> pb.ModelConfig:
    answers, source = _answers({task.objective}, len(task.labels)), _source(task)
    if task.cascade:
        outputs = [*answers, *CASCADE]
        steps = [(task.entry, [source[0]], _names(outputs))]
    else:
        outputs = [*answers, GAMMA]
        steps = [(task.entry, [source[0]], ["PIXELS", "TASK"]), (task.scheduler, ["PIXELS", "TASK"], _names(outputs))]
    config = pb.ModelConfig(name=name, platform="ensemble", max_batch_size=task.max_batch)
    _add_tensors(config, [source], outputs)
    for model, inputs, results in steps:
        step = config.ensemble_scheduling.step.add(model_name=model, model_version=-1)
        step.input_map.update({tensor: tensor for tensor in inputs})
        step.output_map.update({tensor: tensor for tensor in results})
    return config


def _source(task: CascadePlan | PublicTask) -> Spec:
    """What clients send."""
    return ("IMAGE", "STRING", [1]) if task.kind == "vision" else ("TEXT", "STRING", [task.inputs])


def _data(plan: ExecutorPlan) -> Sequence[Spec]:
    if plan.image is None:
        return TOKENS
    return [("PIXELS", "UINT8", [plan.image.height, plan.image.width, 3])]


def _answers(objectives: set[Any], classes: int) -> list[Spec]:
    answers: list[Spec] = []
    if "classification" in objectives:
        answers += [LABEL, ("PROBABILITIES", "FP32", [classes])]
    if "regression" in objectives:
        answers.append(SCORE)
    return answers


def _model(
    name: str,
    backend: str,
    max_batch: int,
    inputs: Sequence[Spec],
    outputs: Sequence[Spec],
    kind: str = "KIND_CPU",
    count: int = 1,
) -> pb.ModelConfig:
    config = pb.ModelConfig(name=name, backend=backend, max_batch_size=max_batch)
    _add_tensors(config, inputs, outputs)
    config.instance_group.add(kind=pb.ModelInstanceGroup.Kind.Value(kind), count=count)
    return config


def _add_tensors(config: pb.ModelConfig, inputs: Sequence[Spec], outputs: Sequence[Spec]) -> None:
    for tensors, specs in ((config.input, inputs), (config.output, outputs)):
        for name, dtype, dims in specs:
            tensors.add(name=name, data_type=pb.DataType.Value(f"TYPE_{dtype}"), dims=dims)


def _names(specs: Sequence[Spec]) -> list[str]:
    return [name for name, _, _ in specs]
