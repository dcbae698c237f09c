"""Who waits for the second small model: together, no longer than there is time, and no more than there is room for."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cascade_service import (
    EASY,
    HARD,
    OTHER,
    Counts,
    arrays,
    at,
    intent,
    request,
    serving,
    small_probabilities,
)

from elastriton.core.errors import Rejected, Unavailable
from elastriton.core.plan import CascadePlan
from elastriton.core.profile import TextSpec
from elastriton.runtime import cascading
from elastriton.runtime.cascading import CascadeService
from elastriton.runtime.small import Opinion


@pytest.fixture(scope="module")
def stages(tiny_build: Path) -> CascadePlan:
    """The first of two small models is sure of nothing, the second of all."""
    return at(intent(tiny_build), 1.1, 0.0)


class BusySecond:
    """The second small model, which goes on with each batch when it is told to."""

    def __init__(self, service: CascadeService) -> None:
        self._whole = service._small[1].opinions
        self.begun: queue.Queue[int] = queue.Queue()
        self.go = threading.Semaphore(0)
        service._small[1].opinions = self  # type: ignore[method-assign]

    def __call__(self, samples: Sequence[Any]) -> list[Opinion]:
        self.begun.put(len(samples))
        assert self.go.acquire(timeout=20)
        return self._whole(samples)

    def occupy(self, service: CascadeService) -> None:
        """Keep it busy with one text."""
        service.handle([request(HARD)[1]])
        assert self.begun.get(timeout=10) == 1


def level(outcomes: Any) -> tuple[int, bool]:
    outcome = arrays(outcomes.get(timeout=10))
    return int(outcome["LEVEL"][0, 0]), bool(outcome["FALLBACK"][0, 0])


def test_those_who_come_while_it_is_busy_share_its_next_batches(stages: CascadePlan, tiny_build: Path) -> None:
    with serving(stages, tiny_build) as service:
        second = BusySecond(service)
        second.occupy(service)
        waiting = [request(text) for text in [EASY, HARD, OTHER] * 3 + [HARD]]
        for _, one in waiting:
            service.handle([one])
        second.go.release(100)
        assert [level(outcomes) for outcomes, _ in waiting] == [(1, False)] * 10
        assert [second.begun.get(timeout=10) for _ in range(2)] == [8, 2]


def test_those_whose_time_is_over_before_get_the_answer_that_there_is(stages: CascadePlan, tiny_build: Path) -> None:
    unread = replace(stages, small=(replace(stages.small[0], text=TextSpec(5)), stages.small[1]))
    expected = small_probabilities(stages, tiny_build, HARD)
    counts = Counts()
    with serving(unread, tiny_build, observer=counts) as service:
        second = BusySecond(service)
        second.occupy(service)
        (late, one), (without, other), (fine, third) = request(HARD, slo_ms=1), request(EASY, slo_ms=1), request(OTHER)
        service.handle([one, other, third])
        time.sleep(0.01)
        second.go.release(100)
        outcome = arrays(late.get(timeout=10))
        rejected = without.get(timeout=10)
        assert level(fine) == (1, False)
        counts.wait_for_outcomes(4)
    assert (outcome["LEVEL"].tolist(), outcome["FALLBACK"].tolist()) == ([[0]], [[True]])
    np.testing.assert_allclose(outcome["PROBABILITIES"], expected, atol=1e-5)
    assert type(rejected) is Rejected
    assert str(rejected) == "the deadline passed before small model 1 could be asked; raise slo_ms"
    assert sorted(counts.outcomes) == ["in_time", "in_time", "late", "rejected"]
    assert second.begun.qsize() == 1, "the late ones are not asked"


def test_so_do_those_whose_time_is_over_between_its_batches(stages: CascadePlan, tiny_build: Path) -> None:
    single = replace(stages, small=(stages.small[0], replace(stages.small[1], max_batch=1)))
    with serving(single, tiny_build) as service:
        second = BusySecond(service)
        (fine, one), (late, other) = request(HARD), request(EASY, slo_ms=500)
        service.handle([one, other])  # the shorter one is the first
        assert second.begun.get(timeout=10) == 1
        time.sleep(0.5)
        second.go.release(100)
        assert (level(fine), level(late)) == ((1, False), (0, True))


def test_its_first_batch_goes_on_to_the_large_model_while_its_second_runs(
    stages: CascadePlan, tiny_build: Path
) -> None:
    single = at(stages, 1.1, 1.1)
    single = replace(single, small=(single.small[0], replace(single.small[1], max_batch=1)))
    with serving(single, tiny_build) as service:
        second = BusySecond(service)
        (first, one), (last, other) = request(HARD), request(EASY)
        service.handle([one, other])
        second.go.release()
        assert level(first) == (2, False)
        assert last.empty()
        second.go.release()
        assert level(last) == (2, False)


def test_those_whose_request_has_an_error_meanwhile_are_not_answered(stages: CascadePlan, tiny_build: Path) -> None:
    counts = Counts()
    with serving(stages, tiny_build, observer=counts) as service:
        second = BusySecond(service)
        second.occupy(service)
        outcomes, pair = request(HARD, EASY)
        service.handle([pair])
        assert pair.reply.send(Unavailable("the watchdog"))
        second.go.release(100)
        counts.wait_for_outcomes(3)
        assert type(outcomes.get(timeout=10)) is Unavailable
    assert second.begun.empty(), "the second model has better things to do"
    assert sorted(counts.outcomes) == ["dropped", "dropped", "in_time"]


def test_those_who_find_no_room_get_the_answer_that_there_is(
    stages: CascadePlan, tiny_build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cascading, "MAX_ROUTED", 2)
    with serving(stages, tiny_build) as service:
        second = BusySecond(service)
        second.occupy(service)
        waiting = [request(text) for text in (HARD, HARD, HARD)]
        for _, one in waiting:
            service.handle([one])
        assert level(waiting[2][0]) == (0, True), "at once"
        second.go.release(100)
        assert [level(outcomes) for outcomes, _ in waiting[:2]] == [(1, False)] * 2


def test_those_who_wait_when_it_stops_are_told_so(stages: CascadePlan, tiny_build: Path) -> None:
    with serving(stages, tiny_build) as service:
        second = BusySecond(service)
        second.occupy(service)
        waits, one = request(HARD)
        service.handle([one])
        stopping = threading.Thread(target=service.stop)
        stopping.start()
        assert type(waits.get(timeout=10)) is Unavailable
        second.go.release(100)
        stopping.join(timeout=20)
        behind, other = request(HARD)
        service.handle([other])
        assert type(behind.get(timeout=10)) is Unavailable
