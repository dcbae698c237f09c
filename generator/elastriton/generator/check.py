"""Validate a model repository without starting Triton: `elastriton check`.

Everything that would make Triton refuse a model, a request hang, or an answer be wrong in silence, so far as files
show it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from elastriton.core.errors import ConfigError
from elastriton.core.plan import PLAN_FILE, CascadePlan, DecoderPlan, ExecutorPlan, PublicTask, SchedulerPlan
from elastriton.core.policies import POLICIES
from elastriton.core.profile import digest
from elastriton.core.records import load
from elastriton.generator.repository import CONFIG_FILE, VERSION_FOLDER, artifacts
from elastriton.runtime.graphs import graph_file

PLANS: dict[str, Any] = {
    "elastic": ExecutorPlan,
    "elastic_scheduler": SchedulerPlan,
    "decode_image": DecoderPlan,
    "cascade": CascadePlan,
    "ensemble": PublicTask,
}


def check(repository: Path) -> list[str]:
    """What is wrong with a repository, one line each; an empty list where nothing is."""
    if not repository.is_dir():
        return [f"{repository} is not a folder; run `elastriton generate {repository}`"]
    folders = sorted(path for path in repository.iterdir() if path.is_dir())
    if not folders:
        return [f"{repository} holds no models; run `elastriton generate {repository}`"]
    configs: dict[str, pb.ModelConfig] = {}
    plans: dict[str, Any] = {}
    findings = []
    for folder in folders:
        try:
            configs[folder.name] = _config(folder)
            plans[folder.name] = _plan(folder, configs[folder.name])
        except ConfigError as error:
            findings.append(f"{folder.name}: {error}")
    for name, plan in plans.items():
        version = repository / name / VERSION_FOLDER
        about = [*_artifacts(plan, version), *_references(plan, plans), *_forbidden(configs[name])]
        findings += [f"{name}: {finding}" for finding in about]
    for name, config in configs.items():
        findings += [f"{name}: {finding}" for finding in _steps(config, configs)]
    return findings


def _config(folder: Path) -> pb.ModelConfig:
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ConfigError(f"{CONFIG_FILE} is missing")
    try:
        config = text_format.Parse(path.read_text(encoding="utf-8"), pb.ModelConfig())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise ConfigError(f"{CONFIG_FILE} cannot be parsed: {error}") from None
    if config.name != folder.name:
        raise ConfigError(f"{CONFIG_FILE} names the model {config.name!r}; it must be the folder's name")
    if config.max_batch_size < 1:
        raise ConfigError(f"max_batch_size is {config.max_batch_size}; it must be at least 1")
    return config


def _plan(folder: Path, config: pb.ModelConfig) -> Any:
    kind = config.platform or config.backend
    if kind not in PLANS:
        raise ConfigError(f"backend {kind!r} is unknown; elastriton has {', '.join(sorted(PLANS))}")
    return load(PLANS[kind], folder / VERSION_FOLDER / PLAN_FILE, made_by="generate")


def _artifacts(plan: Any, version: Path) -> Iterator[str]:
    for artifact in artifacts(plan):
        if not (version / artifact.path).is_dir():
            yield f"artifact {artifact.path} is missing"
        elif digest(version / artifact.path) != artifact.sha256:
            yield f"artifact {artifact.path} is not the one that was profiled"
    if isinstance(plan, ExecutorPlan) and plan.runtime == "onnxruntime":
        for level in plan.levels:
            if not (version / plan.artifact.path / graph_file(level.gamma)).is_file():
                yield f"level {level.gamma} has no graph"


def _references(plan: Any, plans: dict[str, Any]) -> Iterator[str]:
    """Calls between models that are not ensembles, which Triton itself cannot check."""
    if isinstance(plan, SchedulerPlan):
        executor = plans.get(plan.executor)
        if not isinstance(executor, ExecutorPlan):
            yield f"calls the executor {plan.executor!r}, which is not there"
            return
        unknown = {cell.gamma for cell in plan.latency} - {level.gamma for level in executor.levels}
        if unknown:
            yield f"plans levels {sorted(unknown)} that {plan.executor} does not have"
        headless = sorted(plan.tasks.keys() - executor.heads.keys())
        if headless:
            yield f"serves tasks that {plan.executor} has no heads for: {headless}"
        if plan.policy not in POLICIES:
            yield f"policy {plan.policy!r} is unknown; there are {', '.join(sorted(POLICIES))}"
    scheduler = getattr(plan, "scheduler", None)
    if scheduler is not None and not isinstance(plans.get(scheduler), SchedulerPlan):
        yield f"needs the scheduler {scheduler!r}, which is not there"


def _forbidden(config: pb.ModelConfig) -> Iterator[str]:
    batching = config.dynamic_batching
    if batching.priority_levels or batching.HasField("default_queue_policy") or batching.priority_queue_policy:
        yield "has a queue policy or priorities: Triton then stalls bursts by 500 ms; the scheduler does both"
    if config.response_cache.enable:
        yield "has a response cache: its key leaves parameters out, so answers would ignore slo_ms and utility"


def _steps(config: pb.ModelConfig, configs: dict[str, pb.ModelConfig]) -> Iterator[str]:
    """An ensemble's wiring: its models exist, and the tensors on both ends have the same type and compatible shapes."""
    known = {tensor.name: tensor for tensor in config.input}
    for step in config.ensemble_scheduling.step:
        model = configs.get(step.model_name)
        if model is None:
            yield f"step {step.model_name!r} is not there"
            continue
        if model.max_batch_size < config.max_batch_size:
            yield f"max_batch_size {config.max_batch_size} is above {model.max_batch_size}, that of step {model.name}"
        inputs = {tensor.name: tensor for tensor in model.input}
        outputs = {tensor.name: tensor for tensor in model.output}
        for inner, outer in step.input_map.items():
            yield from _compare(model.name, inner, inputs.get(inner), known.get(outer))
        known.update({outer: outputs[inner] for inner, outer in step.output_map.items() if inner in outputs})
    for tensor in config.output if config.ensemble_scheduling.step else ():
        yield from _compare("the ensemble", tensor.name, tensor, known.get(tensor.name))


def _compare(where: str, name: str, wanted: Any, given: Any) -> Iterator[str]:
    if wanted is None or given is None:
        yield f"tensor {name} of {where} has no counterpart"
        return
    same_shape = len(wanted.dims) == len(given.dims) and all(
        a == b or -1 in (a, b) for a, b in zip(wanted.dims, given.dims, strict=False)
    )
    if wanted.data_type != given.data_type or not same_shape:
        yield f"tensor {name} of {where} is {list(wanted.dims)}, but {list(given.dims)} or another type is given"
