"""Floors under each task's service rate: utility alone gives up on the tasks that are hard or worth little.

A floor is a constraint, "of this task's requests, at least this share is answered in time". Its Lagrange multiplier is
followed by stochastic dual ascent (Robbins and Monro, 1951; as in Neely's drift-plus-penalty scheduling, 2010): each
outcome of the task moves it by STEP x (floor - in time), never below 0. Policies see the task's utility times
1 + multiplier, so that they go on maximising one sum.
"""

from __future__ import annotations

from collections.abc import Mapping


class Floors:
    """The multipliers of tasks with a floor; tasks without one always weigh 1."""

    STEP = 0.1
    MOST = 20.0  # a floor that cannot be met must not grow without bound

    def __init__(self, floors: Mapping[str, float] | None = None) -> None:
        self._floors = dict(floors or {})
        self._multipliers = dict.fromkeys(self._floors, 0.0)

    def weight(self, task: str) -> float:
        """The factor on the utility of the task's items."""
        return 1.0 + self._multipliers.get(task, 0.0)

    def observe(self, task: str, *, in_time: bool) -> None:
        """Note what became of one item."""
        if task in self._floors:
            raised = self._multipliers[task] + self.STEP * (self._floors[task] - in_time)
            self._multipliers[task] = min(self.MOST, max(0.0, raised))
