"""Samples that wait for the large model: with few threads, behind an error of their request, at the stop."""

from __future__ import annotations

import queue
import threading
from pathlib import Path

import pytest
from cascade_service import EASY, HARD, OTHER, Counts, answers, arrays, at, intent, large, request, serving
from few_threads import refuse

from elastriton.core.errors import Internal, Unavailable
from elastriton.core.plan import CascadePlan
from elastriton.runtime import cascading
from elastriton.runtime.executor import Arrays
from elastriton.runtime.scheduling import Parameters


@pytest.fixture(scope="module")
def plan(tiny_build: Path) -> CascadePlan:
    return intent(tiny_build)


@pytest.fixture
def counts() -> Counts:
    return Counts()


def test_where_there_can_be_no_more_threads_those_that_run_see_to_all(
    plan: CascadePlan, tiny_build: Path, monkeypatch: pytest.MonkeyPatch, counts: Counts
) -> None:
    called: queue.Queue[str] = queue.Queue()
    go = threading.Event()

    def call(model: str, inputs: Arrays, parameters: Parameters, request_id: str) -> Arrays:
        called.put(model)
        assert go.wait(timeout=20)
        return large(model, inputs, parameters, request_id)

    with serving(at(plan, 1.1), tiny_build, call, counts) as service:
        (first, one), (second, other) = request(HARD), request(EASY)
        service.handle([one])
        called.get(timeout=10)
        monkeypatch.setattr(threading.Thread, "start", refuse)
        service.handle([other])
        assert second.empty()
        go.set()
        for outcomes in (first, second):
            assert arrays(outcomes.get(timeout=10))["LEVEL"].tolist() == [[1]]
        counts.wait_for_outcomes(2)
    assert counts.outcomes == ["in_time", "in_time"]


def test_what_is_left_of_a_request_that_has_its_error_is_not_asked_for(
    plan: CascadePlan, tiny_build: Path, monkeypatch: pytest.MonkeyPatch, counts: Counts
) -> None:
    monkeypatch.setattr(cascading, "ROUTES", 2)
    begun, go = threading.Barrier(2), threading.Event()
    calls: list[str] = []

    def call(model: str, inputs: Arrays, parameters: Parameters, request_id: str) -> Arrays:
        calls.append(model)
        if begun.wait(timeout=10) == 0:
            raise Internal("the encoder failed")
        assert go.wait(timeout=20)
        return large(model, inputs, parameters, request_id)

    with serving(at(plan, 1.1), tiny_build, call, counts) as service:
        (outcome,) = answers(service, request(HARD, EASY, OTHER, HARD))
        counts.wait_for_outcomes(3)
        go.set()
        counts.wait_for_outcomes(4)
    assert type(outcome) is Internal
    assert len(calls) == 2
    assert counts.outcomes == ["failed", "dropped", "dropped", "dropped"]


def test_what_waits_for_the_large_model_at_the_stop_is_told_so_and_counted(
    plan: CascadePlan, tiny_build: Path, monkeypatch: pytest.MonkeyPatch, counts: Counts
) -> None:
    monkeypatch.setattr(cascading, "ROUTES", 1)
    called, go = threading.Event(), threading.Event()

    def call(model: str, inputs: Arrays, parameters: Parameters, request_id: str) -> Arrays:
        called.set()
        assert go.wait(timeout=20)
        return large(model, inputs, parameters, request_id)

    with serving(at(plan, 1.1), tiny_build, call, counts) as service:
        (asked, one), (waits, other) = request(HARD), request(EASY)
        service.handle([one])
        assert called.wait(timeout=10)
        service.handle([other])
        service.stop()
        assert [type(outcomes.get(timeout=10)) for outcomes in (waits, asked)] == [Unavailable] * 2
        go.set()
        counts.wait_for_outcomes(2)
    assert counts.outcomes == ["failed", "dropped"]
