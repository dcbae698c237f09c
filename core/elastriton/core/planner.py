"""Profile and goals to Plan: keep the levels that pay, and lay out the served models."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from elastriton.core import names
from elastriton.core.errors import ConfigError
from elastriton.core.latency import Cell, LatencyTable
from elastriton.core.plan import (
    VERSION,
    CascadePlan,
    DecoderPlan,
    ExecutorPlan,
    LevelAccuracy,
    Plan,
    PublicTask,
    SchedulerPlan,
    SmallPlan,
    TaskPlan,
)
from elastriton.core.policies import POLICIES
from elastriton.core.profile import EncoderProfile, Profile, TaskProfile
from elastriton.core.promise import CascadeChoice

_WHY_PLAIN = {
    "classification": "it has no labelled data to measure the others on",
    "regression": "what the others cost is measured for classifications only",
}


@dataclass(frozen=True, slots=True)
class TaskGoal:
    """What a task is to achieve: its deadline, and what an answer in time is worth.

    `floor` is the least share of its requests to answer in time, where other tasks would be served instead.
    """

    slo_ms: float
    utility: float = 1.0
    floor: float = 0.0


@dataclass(frozen=True, slots=True)
class Goals:
    """What the served models are to achieve, by task, and how the schedulers work."""

    tasks: dict[str, TaskGoal]
    policy: str = "joint"
    max_queue: int = 1024
    overhead_ms: float = 0.0


def make_plan(
    profile: Profile, profile_sha256: str, goals: Goals, choices: Mapping[str, CascadeChoice] = MappingProxyType({})
) -> Plan:
    """Lay out the served models for a profile; `choices` are the cascades that the search found, by task.

    Raises ConfigError where a task names an unknown encoder or has a deadline that nothing can meet, profile and goals
    differ in their tasks, or the policy is unknown.
    """
    if goals.policy not in POLICIES:
        raise ConfigError(f"policy {goals.policy!r} is unknown; choose one of {', '.join(sorted(POLICIES))}")
    if goals.tasks.keys() != profile.tasks.keys():
        differing = ", ".join(sorted(goals.tasks.keys() ^ profile.tasks.keys()))
        raise ConfigError(f"the profile and the configuration differ in the task(s) {differing}; profile again")
    for name, task in profile.tasks.items():
        if task.encoder not in profile.encoders:
            raise ConfigError(f"task {name} names the encoder {task.encoder!r}, which the profile lacks")
        _check_deadline(name, task, profile.encoders[task.encoder], goals, choices.get(name))
    executors, schedulers, notes = {}, {}, []
    for name, encoder in profile.encoders.items():
        tasks = {task_name: task for task_name, task in profile.tasks.items() if task.encoder == name}
        if not tasks:
            raise ConfigError(f"encoder {name} has no task; remove it from the configuration and profile again")
        kept, dropped = useful_gammas(encoder, tasks.values())
        notes += [f"{name}: level {gamma} is dropped: {reason}" for gamma, reason in dropped.items()]
        notes += [
            f"{task_name}: level 0 alone: {_WHY_PLAIN[task.objective]}"
            for task_name, task in tasks.items()
            if len(encoder.levels) > 1 and not task.accuracy
        ]
        executors[names.executor(name)] = _executor(encoder, tasks, kept)
        schedulers[names.scheduler(name)] = _scheduler(names.executor(name), encoder, tasks, kept, goals)
    notes += [f"{name}: {choice.note}" for name, choice in choices.items()]
    cascaded = {
        name for name, task in profile.tasks.items() if task.cascade or profile.encoders[task.encoder].kind == "text"
    }
    return Plan(
        version=VERSION,
        profile_sha256=profile_sha256,
        profile_created=profile.created,
        machine=profile.machine,
        executors=executors,
        schedulers=schedulers,
        decoders={
            names.decoder(name): DecoderPlan(
                name,
                image,
                goals.tasks[name].slo_ms,
                needed_ms=round(needed_ms(task, encoder, goals), 3),
                instances=decoders(task, encoder, profile.machine.cores),
            )
            for name, task in profile.tasks.items()
            if (image := (encoder := profile.encoders[task.encoder]).image) is not None and name not in cascaded
        },
        cascades={
            names.cascade(name): _cascade(
                name,
                profile.tasks[name],
                profile.encoders[profile.tasks[name].encoder],
                goals.tasks[name],
                choices.get(name, CascadeChoice("no small models")),
            )
            for name in profile.tasks
            if name in cascaded
        },
        tasks={
            name: _public(name, task, profile.encoders[task.encoder], name in cascaded)
            for name, task in profile.tasks.items()
        },
        notes=tuple(notes),
    )


def useful_gammas(encoder: EncoderProfile, tasks: Iterable[TaskProfile]) -> tuple[set[int], dict[int, str]]:
    """Which levels to keep, and why the others go.

    A level goes where no task has an accuracy for it, or where another is typically at least as fast for every measured
    batch and at least as accurate for every task. Medians decide: of a p99 that rests on fifteen runs, the slowest one
    would. The plain level always stays: it is what tasks without measurements at other levels run at.
    """
    table = LatencyTable(encoder.latency)
    accuracy = [{point.gamma: point.accuracy for point in task.accuracy} for task in tasks]
    cells = sorted({(cell.batch, cell.length) for cell in encoder.latency})

    def beats(winner: int, loser: int) -> bool:
        as_fast = all(table.typical_ms(winner, *cell) <= table.typical_ms(loser, *cell) for cell in cells)
        as_good = all(points.get(winner, -1.0) >= points.get(loser, -1.0) for points in accuracy)
        return as_fast and as_good

    gammas = [level.gamma for level in encoder.levels]
    measured = {0}.union(*accuracy)
    dropped = {gamma: "no task has an accuracy for it" for gamma in gammas if gamma not in measured}
    for gamma in gammas:
        rivals = [other for other in gammas if other != gamma and other not in dropped and beats(other, gamma)]
        if rivals and gamma != 0 and gamma not in dropped:
            dropped[gamma] = f"level {rivals[0]} is as fast and as accurate"
    return set(gammas) - set(dropped), dropped


def decoders(task: TaskProfile, encoder: EncoderProfile, cores: int) -> int:
    """How many decoders keep up with the encoder at the task's fastest level: one per core at most.

    One where decoding was not measured, as for a task without labelled images.
    """
    if task.decode_ms is None:
        return 1
    fastest_per_s = encoder.instances * max(1000.0 * cell.batch / cell.p50_ms for cell in _own_cells(task, encoder))
    return max(1, min(cores, math.ceil(task.decode_ms * fastest_per_s / 1000.0)))


def fastest_ms(task: TaskProfile, encoder: EncoderProfile) -> float:
    """What the fastest level of the task typically takes for the smallest batch, in ms."""
    return min(cell.p50_ms for cell in _own_cells(task, encoder))


def needed_ms(task: TaskProfile, encoder: EncoderProfile, goals: Goals) -> float:
    """What the encoder's answer takes at the least: decoding, the fastest level, and the overhead."""
    return (task.decode_ms or 0.0) + fastest_ms(task, encoder) + goals.overhead_ms


def _own_cells(task: TaskProfile, encoder: EncoderProfile) -> list[Cell]:
    """The latencies of the levels that the task can run at: those it was measured at, else the plain one."""
    own = {point.gamma for point in task.accuracy} or {0}
    return [cell for cell in encoder.latency if cell.gamma in own]


def _check_deadline(
    name: str, task: TaskProfile, encoder: EncoderProfile, goals: Goals, choice: CascadeChoice | None
) -> None:
    """Raises ConfigError where no answer can be in time; a small model's may be where the encoder's is not."""
    slo_ms, least_ms = goals.tasks[name].slo_ms, needed_ms(task, encoder, goals)
    if slo_ms < least_ms and not (choice and choice.small):
        raise ConfigError(
            f"task {name} has slo_ms {slo_ms:g}, but decoding, the fastest level and overhead_ms take {least_ms:.3g} ms"
            "; raise slo_ms, or profile on a faster machine"
        )


def _executor(encoder: EncoderProfile, tasks: dict[str, TaskProfile], kept: set[int]) -> ExecutorPlan:
    return ExecutorPlan(
        kind=encoder.kind,
        runtime=encoder.runtime,
        artifact=encoder.artifact,
        heads={name: task.head for name, task in tasks.items()},
        levels=tuple(level for level in encoder.levels if level.gamma in kept),
        depth=encoder.depth,
        width=encoder.width,
        classes=max(len(task.labels) or 1 for task in tasks.values()),
        max_batch=max(cell.batch for cell in encoder.latency),
        image=encoder.image,
        text=encoder.text,
        instances=encoder.instances,
        threads=encoder.threads,
        precision=encoder.precision,
        lengths=tuple(sorted({cell.length for cell in encoder.latency})) if encoder.kind == "text" else (),
    )


def _scheduler(
    executor: str, encoder: EncoderProfile, tasks: dict[str, TaskProfile], kept: set[int], goals: Goals
) -> SchedulerPlan:
    return SchedulerPlan(
        executor=executor,
        kind=encoder.kind,
        policy=goals.policy,
        tasks={name: _task(task, kept, goals.tasks[name]) for name, task in tasks.items()},
        latency=tuple(cell for cell in encoder.latency if cell.gamma in kept),
        max_batch=max(cell.batch for cell in encoder.latency),
        max_queue=goals.max_queue,
        overhead_ms=goals.overhead_ms,
        executors=encoder.instances,
        text=encoder.text,
    )


def _task(task: TaskProfile, kept: set[int], goal: TaskGoal) -> TaskPlan:
    accuracy = [LevelAccuracy(point.gamma, point.accuracy) for point in task.accuracy if point.gamma in kept]
    return TaskPlan(
        objective=task.objective,
        labels=task.labels,
        slo_ms=goal.slo_ms,
        utility=goal.utility,
        temperature=task.temperature,
        accuracy=tuple(accuracy) or (LevelAccuracy(0, 1.0),),
        floor=goal.floor,
    )


def _cascade(
    name: str, task: TaskProfile, encoder: EncoderProfile, goal: TaskGoal, choice: CascadeChoice
) -> CascadePlan:
    if encoder.kind == "text" and (encoder.text is None or encoder.tokenizer is None):
        raise ConfigError(f"encoder {task.encoder} is a text encoder without text or tokenizer; profile again")
    return CascadePlan(
        task=name,
        kind=encoder.kind,
        objective=task.objective,
        labels=task.labels,
        inputs=task.inputs,
        scheduler=names.scheduler(task.encoder),
        slo_ms=goal.slo_ms,
        max_batch=max(cell.batch for cell in encoder.latency),
        tokenizer=encoder.tokenizer,
        text=encoder.text,
        image=encoder.image,
        small=tuple(_small(task, number, threshold) for number, threshold in choice.small),
        score=choice.score,
        small_weight=choice.small_weight,
        pruning=choice.pruning,
        audit=choice.audit,
        promise=choice.promise,
    )


def _small(task: TaskProfile, number: int, threshold: float) -> SmallPlan:
    if task.cascade is None:
        raise ConfigError("a cascade was chosen for a task whose profile has none; profile again")
    small = task.cascade.small[number]
    return SmallPlan(
        artifact=small.artifact,
        temperature=small.temperature,
        threshold=threshold,
        max_batch=max(cell.batch for cell in small.latency),
        power=small.power,
        text=small.text,
        image=small.image,
    )


def _public(name: str, task: TaskProfile, encoder: EncoderProfile, cascade: bool) -> PublicTask:
    return PublicTask(
        kind=encoder.kind,
        objective=task.objective,
        labels=task.labels,
        inputs=task.inputs,
        entry=names.cascade(name) if cascade else names.decoder(name),
        scheduler=names.scheduler(task.encoder),
        max_batch=max(cell.batch for cell in encoder.latency),
        cascade=cascade,
    )
