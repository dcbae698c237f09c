"""Validate a model repository without starting Triton: `elastriton check`.

Everything that would make Triton refuse a model, a request hang, or an answer be wrong in silence, so far as files
show it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from elastriton.core.errors import ConfigError
from elastriton.core.plan import PLAN_FILE, CascadePlan, DecoderPlan, ExecutorPlan, PublicTask, SchedulerPlan
from elastriton.core.policies import POLICIES
from elastriton.core.profile import digest
from elastriton.core.records import load
from elastriton.generator.pbtxt import config as rendered
from elastriton.generator.repository import CONFIG_FILE, VERSION_FOLDER, artifacts
from elastriton.runtime.files import graph_file

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
        calls = [*_references(name, plan, plans)]
        about = [*_artifacts(plan, version), *calls, *_forbidden(configs[name])]
        about += [] if calls else _differences(configs[name], plans)  # without those that it calls, nothing is rendered
        findings += [f"{name}: {finding}" for finding in about]
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


def _references(name: str, plan: Any, plans: dict[str, Any]) -> Iterator[str]:
    """Calls between models, and whether both ends are made for each other."""
    if isinstance(plan, SchedulerPlan):
        executor = plans.get(plan.executor)
        if not isinstance(executor, ExecutorPlan):
            yield f"calls the executor {plan.executor!r}, which is not there"
            return
        yield from _scheduling(plan, executor)
    if isinstance(plan, DecoderPlan):
        yield from _decoding(plan, plans)
    entry = (CascadePlan if plan.cascade else DecoderPlan) if isinstance(plan, PublicTask) else None
    if entry is not None and not isinstance(plans.get(plan.entry), entry):
        yield f"step {plan.entry!r} is not there"
    scheduler = getattr(plan, "scheduler", None)
    if scheduler is not None and not isinstance(plans.get(scheduler), SchedulerPlan):
        yield f"needs the scheduler {scheduler!r}, which is not there"
    elif scheduler is not None:
        yield from _calling(getattr(plan, "task", name), plan, plans[scheduler])


def _calling(task: str, plan: CascadePlan | PublicTask, scheduler: SchedulerPlan) -> Iterator[str]:
    if plan.max_batch > scheduler.max_batch:
        yield f"max_batch {plan.max_batch} is above {scheduler.max_batch}, that of {plan.scheduler}"
    served = scheduler.tasks.get(task)
    if served is None:
        yield f"needs the task {task!r}, which {plan.scheduler} does not serve"
    elif (served.objective, served.labels) != (plan.objective, plan.labels):
        yield f"has not the objective and the labels that {plan.scheduler} has for the task {task!r}"


def _scheduling(plan: SchedulerPlan, executor: ExecutorPlan) -> Iterator[str]:
    unknown = {cell.gamma for cell in plan.latency} - {level.gamma for level in executor.levels}
    if unknown:
        yield f"plans levels {sorted(unknown)} that {plan.executor} does not have"
    headless = sorted(plan.tasks.keys() - executor.heads.keys())
    if headless:
        yield f"serves tasks that {plan.executor} has no heads for: {headless}"
    if plan.policy not in POLICIES:
        yield f"policy {plan.policy!r} is unknown; there are {', '.join(sorted(POLICIES))}"
    largest = min(executor.max_batch, max((cell.batch for cell in plan.latency), default=0))
    if plan.max_batch > largest:
        yield f"max_batch {plan.max_batch} is above {largest}, the largest that was profiled and {plan.executor} takes"
    wrong = [cell for cell in plan.latency if not (0 < cell.p50_ms < math.inf and 0 < cell.p99_ms < math.inf)]
    if wrong:
        yield f"has a batch that takes no time, or for ever: {wrong[0]}"
    try:
        plan.outlook()
    except ConfigError as error:
        yield str(error)


def _decoding(plan: DecoderPlan, plans: dict[str, Any]) -> Iterator[str]:
    """From its task to the scheduler and on to the executor, so far as they are there: who lacks one says so."""
    scheduler = plans.get(getattr(plans.get(plan.task), "scheduler", ""))
    if not isinstance(scheduler, SchedulerPlan) or plan.task not in scheduler.tasks:
        yield f"decodes for the task {plan.task!r}, which no scheduler serves"
        return
    image = getattr(plans.get(scheduler.executor), "image", None)
    if image is not None and (plan.image.height, plan.image.width) != (image.height, image.width):
        sizes = f"{plan.image.height} x {plan.image.width} pixels, but {image.height} x {image.width}"
        yield f"makes {sizes} are what {scheduler.executor} reads"


def _differences(config: pb.ModelConfig, plans: dict[str, Any]) -> Iterator[str]:
    """Where config.pbtxt is not what `generate` would write for plan.json, in what must not be edited."""
    wanted = rendered(config.name, plans)
    for field, value in FIXED.items():
        if value(config) != value(wanted):
            yield f"{field} is {value(config)} in {CONFIG_FILE}, but {value(wanted)} by {PLAN_FILE}"


def _tensors(entries: Iterable[Any]) -> dict[str, tuple[str, list[int]]]:
    return {one.name: (pb.DataType.Name(one.data_type), list(one.dims)) for one in entries}


def _steps(config: pb.ModelConfig) -> list[Any]:
    steps = config.ensemble_scheduling.step
    return [(step.model_name, dict(step.input_map), dict(step.output_map)) for step in steps]


def _forbidden(config: pb.ModelConfig) -> Iterator[str]:
    batching = config.dynamic_batching
    if batching.priority_levels or batching.HasField("default_queue_policy") or batching.priority_queue_policy:
        yield "has a queue policy or priorities: Triton then stalls bursts by 500 ms; the scheduler does both"
    if config.response_cache.enable:
        yield "has a response cache: its key leaves parameters out, so answers would ignore slo_ms and utility"


FIXED: dict[str, Callable[[pb.ModelConfig], Any]] = {
    "backend": lambda config: config.platform or config.backend,
    "max_batch_size": lambda config: config.max_batch_size,
    "input": lambda config: _tensors(config.input),
    "output": lambda config: _tensors(config.output),
    "instance count": lambda config: sum(max(1, one.count) * max(1, len(one.gpus)) for one in config.instance_group),
    "ensemble steps": _steps,
    "decoupled": lambda config: config.model_transaction_policy.decoupled,
}
"""What must stay as generated. Devices, warm-ups, version policies, parameters and batching are the user's."""
