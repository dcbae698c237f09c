"""The setting of the simulated bench: a latency table, tasks with deadlines and utilities, and the noise of durations.

`synthetic()` is a ViT-like table that needs no measurement; `from_profile()` takes a measured one, `from_plan()` a
plan. A profile with a single vision task yields three tasks: its accuracy loss against level 0 is scaled by 0.5, 1 and
2. Deadlines are 6, 12 and 24 times the p99 of one sample at level 0, utilities 1, 1 and 2, and requests spread evenly
over the tasks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from elastriton.core.fairness import Floors
from elastriton.core.latency import Cell, LatencyTable
from elastriton.core.plan import SchedulerPlan
from elastriton.core.planner import useful_gammas
from elastriton.core.policy import Outlook
from elastriton.core.profile import load_profile
from elastriton.core.queue import Item

Z_99 = 2.3263478740408408
Z_MAX = 4.0  # noise beyond four sigmas is cut, which fluid.py and timeline.py rely on
SLO_FACTORS = (6.0, 12.0, 24.0)
UTILITIES = (1.0, 1.0, 2.0)
SLOPES = (0.5, 1.0, 2.0)
SURROUNDINGS = ("host_ms", "calm_ms", "late_ms", "call_ms", "slower", "answer_ms")


@dataclass(frozen=True)
class Task:
    """What a request of the task is worth, and how long it may take."""

    name: str
    utility: float
    slo_ms: float


@dataclass(frozen=True)
class Setting:
    """Everything that a cell of the bench has in common: measurements and tasks.

    Each request costs `host_ms` of the whole machine outside of the encoder (host.py), `calm_ms` where it comes alone,
    or `late_ms` where it is late already. Each batch takes `call_ms` longer than the encoder, and the encoder `slower`
    times what was measured and `answer_ms` more for every sample. Policies know of none of these SURROUNDINGS.
    """

    source: str
    cells: tuple[Cell, ...]
    tasks: tuple[Task, ...]
    accuracy: dict[str, dict[int, float]]
    overhead_ms: float = 0.0
    executors: int = 1
    floors: tuple[tuple[str, float], ...] = ()
    host_ms: float = 0.0
    calm_ms: float = 0.0
    late_ms: float = 0.0
    call_ms: float = 0.0
    slower: float = 1.0
    answer_ms: float = 0.0

    def alone(self) -> Setting:
        """The setting of an encoder that has the machine for itself."""
        return replace(self, host_ms=0.0, calm_ms=0.0, late_ms=0.0, call_ms=0.0, slower=1.0, answer_ms=0.0)

    @property
    def length(self) -> int:
        """The sequence length of every request."""
        return self.cells[0].length

    @cached_property
    def outlook(self) -> Outlook:
        """What policies see at first: the measured table, from which nothing has drifted."""
        return self.fresh_outlook()

    def fresh_outlook(self) -> Outlook:
        """An outlook of its own for each run, which learns from it."""
        table = LatencyTable(self.cells)
        floors, slo_ms = Floors(dict(self.floors)), {task.name: task.slo_ms for task in self.tasks}
        return Outlook(
            table, self.accuracy, table.max_batch, self.overhead_ms, self.executors, floors=floors, slo_ms=slo_ms
        )

    @cached_property
    def p50_ms(self) -> dict[int, list[float]]:
        """The median of a batch by level and size (index 0 is unused)."""
        return self._rows(self.outlook.latency.typical_ms)

    @cached_property
    def p99_ms(self) -> dict[int, list[float]]:
        """The p99 of a batch by level and size (index 0 is unused)."""
        return self._rows(self.outlook.latency.safe_ms)

    @cached_property
    def sigma(self) -> dict[int, list[float]]:
        """The spread of the lognormal noise by level and size, such that its p99 is the table's."""
        return {
            gamma: [0.0] + [max(0.0, math.log(self.p99_ms[gamma][s] / row[s])) / Z_99 for s in range(1, len(row))]
            for gamma, row in self.p50_ms.items()
        }

    @cached_property
    def capacity_per_s(self) -> float:
        """Requests per second that level 0 can keep up with, at its best batch size."""
        row = self.p50_ms[0]
        return max(1000.0 * size / row[size] for size in range(1, len(row)))

    def _rows(self, predict: Callable[[int, int, int], float]) -> dict[int, list[float]]:
        table = self.outlook.latency
        sizes = range(1, table.max_batch + 1)
        return {gamma: [0.0, *(predict(gamma, size, self.length) for size in sizes)] for gamma in table.gammas}

    def duration_s(self, gamma: int, size: int, z: float) -> float:
        """How long the encoder really takes for a batch, given a draw of the standard normal distribution."""
        alone_ms = self.p50_ms[gamma][size] * math.exp(self.sigma[gamma][size] * z)
        return (self.slower * alone_ms + self.answer_ms * size) / 1000.0

    def items(self, arrivals_s: NDArray[np.float64], seed: int) -> list[Item]:
        """One request per arrival, its task drawn evenly."""
        chosen = np.random.default_rng([seed, 1]).integers(len(self.tasks), size=len(arrivals_s))
        return [
            Item(task.name, at, at + task.slo_ms / 1000.0, task.utility, self.length)
            for at, task in zip(arrivals_s.tolist(), (self.tasks[index] for index in chosen), strict=True)
        ]


def synthetic() -> Setting:
    """A ViT-like table: a fixed cost of 6 ms per batch, 4 ms per sample divided by the level's speed-up, p99 8 % up."""
    speed_up = {-10: 1.9, -8: 1.65, -6: 1.45, -4: 1.27, 0: 1.0, 4: 0.98, 8: 0.96}
    middle = dict(zip(speed_up, (0.80, 0.87, 0.90, 0.92, 0.943, 0.945, 0.946), strict=True))
    cells = tuple(
        Cell(gamma, 197, size, p50_ms := 6.0 + 4.0 * size / factor, 1.08 * p50_ms, 200)
        for gamma, factor in speed_up.items()
        for size in (1, 2, 4, 8, 16, 32, 64)
    )
    return _three_tasks("synthetic ViT-like table: 6 ms + 4 ms per sample ÷ speed-up, p99 = 1.08 p50", cells, middle)


def from_profile(path: Path) -> Setting:
    """The first vision encoder of a profile, with the levels that a plan would keep."""
    profile = load_profile(path)
    name, encoder = next((name, one) for name, one in profile.encoders.items() if one.kind == "vision")
    tasks = {key: task for key, task in profile.tasks.items() if task.encoder == name}
    kept, _ = useful_gammas(encoder, tasks.values())
    cells = tuple(cell for cell in encoder.latency if cell.gamma in kept)
    source = f"{path}: {encoder.model} on {profile.machine.gpu or profile.machine.cpu}"
    measured = {
        key: {point.gamma: point.accuracy for point in task.accuracy if point.gamma in kept}
        for key, task in tasks.items()
    }
    if len(measured) >= len(SLO_FACTORS):
        return _setting(source, cells, dict(list(measured.items())[: len(SLO_FACTORS)]))
    return _three_tasks(source, cells, next(iter(measured.values())))


def resident_sizes(path: Path) -> Setting | None:
    """The plain levels of all vision encoders of a profile as the levels 0, -1, …; None where there is but one.

    The first encoder's tasks and deadlines are those of `from_profile`, so that both settings meet the same requests.
    """
    profile = load_profile(path)
    names = [name for name, encoder in profile.encoders.items() if encoder.kind == "vision"]
    if len(names) < 2:
        return None
    cells = tuple(
        replace(cell, gamma=-size, length=profile.encoders[names[0]].tokens)
        for size, name in enumerate(names)
        for cell in profile.encoders[name].latency
        if cell.gamma == 0
    )
    measured = {}
    for size, name in enumerate(names):
        task = next(task for task in profile.tasks.values() if task.encoder == name)
        measured[-size] = next(point.accuracy for point in task.accuracy if point.gamma == 0)
    return _three_tasks(f"{path}: {', '.join(names)}", cells, measured)


def from_plan(plan: SchedulerPlan) -> Setting:
    """A served plan as it is: its tasks, deadlines and levels."""
    tasks = tuple(Task(name, task.utility, task.slo_ms) for name, task in plan.tasks.items())
    accuracy = {name: {point.gamma: point.accuracy for point in task.accuracy} for name, task in plan.tasks.items()}
    return Setting("a served plan", plan.latency, tasks, accuracy, plan.overhead_ms)


def _three_tasks(source: str, cells: tuple[Cell, ...], measured: dict[int, float]) -> Setting:
    accuracy = {
        f"slope-{slope:g}": {
            gamma: min(1.0, max(0.0, measured[0] + slope * (value - measured[0]))) for gamma, value in measured.items()
        }
        for slope in SLOPES
    }
    return _setting(f"{source}; three tasks: accuracy loss × 0.5, 1, 2", cells, accuracy)


def _setting(source: str, cells: tuple[Cell, ...], accuracy: dict[str, dict[int, float]]) -> Setting:
    alone_ms = LatencyTable(cells).safe_ms(0, 1, cells[0].length)
    tasks = tuple(
        Task(name, utility, factor * alone_ms)
        for name, utility, factor in zip(accuracy, UTILITIES, SLO_FACTORS, strict=True)
    )
    return Setting(source, cells, tasks, accuracy)
