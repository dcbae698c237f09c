"""A cascade's service in this process, asked without a server; only the call to the large model is a stand-in."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from elastriton.core.errors import Rejected, RequestError
from elastriton.core.plan import CascadePlan, Plan, SmallPlan
from elastriton.core.profile import Artifact, TextSpec
from elastriton.core.records import load
from elastriton.runtime.cascading import CascadeService
from elastriton.runtime.executor import Arrays
from elastriton.runtime.reply import Reply, Request
from elastriton.runtime.scheduling import Call, Parameters
from elastriton.runtime.small import Opinion, SmallModel

Outcome = dict[str, Any] | RequestError
EASY, HARD, OTHER = "hello there good morning", "buy tea", "two please bye you see hi"


def intent(folder: Path) -> CascadePlan:
    """The tiny project's classification of texts, with its small model at threshold 0."""
    plan = load(Plan, folder / "plan.json").cascades["intent_cascade"]
    return replace(plan, small=(small_plan(folder, "intent"),), small_weight=0.0, pruning=None)


def similarity(folder: Path) -> CascadePlan:
    """The tiny project's regression of pairs, with its small model."""
    plan = load(Plan, folder / "plan.json").cascades["similarity_cascade"]
    small = (small_plan(folder, "similarity"),)
    return replace(plan, small=small, score="uncertainty", small_weight=0.0, pruning=None)


def small_plan(folder: Path, task: str) -> SmallPlan:
    """The task's small model; a random one's own temperature is as flat as can be, so it is 1 here."""
    artifact = Artifact(f"{task}_small0", "")
    return SmallPlan(artifact, temperature=1.0, threshold=0.0, max_batch=8, text=TextSpec(16))


def at(plan: CascadePlan, *thresholds: float) -> CascadePlan:
    """The plan with as many small models as thresholds: the same one, ever sharper, where it has but one."""
    small = [replace(plan.small[0], threshold=t, temperature=0.5**i) for i, t in enumerate(thresholds)]
    return replace(plan, small=tuple(small))


def opinions(plan: CascadePlan, folder: Path, *rows: Any, level: int = 0) -> list[Opinion]:
    model = SmallModel(plan, level, folder)
    return model.opinions([model.preparation.read((row,) if isinstance(row, str) else row) for row in rows])


def small_probabilities(plan: CascadePlan, folder: Path, *texts: str) -> Any:
    return np.stack([opinion.values for opinion in opinions(plan, folder, *texts)])


def large(model: str, inputs: Arrays, parameters: Parameters, request_id: str) -> Arrays:
    """The large model is sure of `order`, at level -4."""
    assert len(inputs["INPUT_IDS"]) == 1
    return {"PROBABILITIES": np.array([[0.1, 0.1, 0.8]], np.float32), "GAMMA": np.array([[-4]], np.int32)}


def reject(model: str, inputs: Arrays, parameters: Parameters, request_id: str) -> Arrays:
    raise Rejected("the deadline cannot be met")


class Counts:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, bool]] = []
        self.outcomes: list[str] = []
        self.words: list[tuple[int, int]] = []
        self.audits: queue.Queue[tuple[bool, bool]] = queue.Queue()
        self._told = threading.Condition()

    def answered(self, level: int, *, fallback: bool, in_time: bool) -> None:
        with self._told:
            self.answers.append((level, fallback))
            self.outcomes.append("in_time" if in_time else "late")
            self._told.notify_all()

    def lost(self, outcome: str) -> None:
        with self._told:
            self.outcomes.append(outcome)
            self._told.notify_all()

    def shortened(self, words: int, kept: int) -> None:
        self.words.append((words, kept))

    def audited(self, agrees: bool, alarm: bool) -> None:
        self.audits.put((agrees, alarm))

    def wait_for_outcomes(self, n: int) -> None:
        with self._told:
            assert self._told.wait_for(lambda: len(self.outcomes) >= n, timeout=10)


@contextmanager
def serving(
    plan: CascadePlan, folder: Path, call: Call = large, observer: Counts | None = None
) -> Iterator[CascadeService]:
    service = CascadeService(plan, folder, call, observer)
    yield service
    service.stop()


def request(*rows: Any, **parameters: Any) -> tuple[queue.Queue[Outcome], Request]:
    outcomes: queue.Queue[Outcome] = queue.Queue()
    parts = [[row] if isinstance(row, str | bytes) else row for row in rows]
    texts = np.array([[part if isinstance(part, bytes) else part.encode() for part in row] for row in parts], object)
    return outcomes, Request({"TEXT": texts}, json.dumps(parameters), 0, "id-7", Reply(outcomes.put))


def answers(service: CascadeService, *pairs: tuple[queue.Queue[Outcome], Request]) -> list[Outcome]:
    service.handle([one for _, one in pairs])
    return [outcomes.get(timeout=10) for outcomes, _ in pairs]


def arrays(outcome: Outcome) -> dict[str, Any]:
    assert isinstance(outcome, dict), outcome
    return outcome


def images(*rows: bytes, **parameters: Any) -> tuple[queue.Queue[Outcome], Request]:
    outcomes: queue.Queue[Outcome] = queue.Queue()
    encoded = np.array([[row] for row in rows], object)
    return outcomes, Request({"IMAGE": encoded}, json.dumps(parameters), 0, "", Reply(outcomes.put))
