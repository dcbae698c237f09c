from __future__ import annotations

import queue
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from few_threads import refuse

from elastriton.core.audit import AuditPlan
from elastriton.core.errors import Rejected
from elastriton.runtime import auditing
from elastriton.runtime.auditing import Ask, Auditor
from elastriton.runtime.executor import Floats
from elastriton.runtime.preparing import Row

EARLY = np.array([0.1, 0.9], np.float32)
OTHER = np.array([0.8, 0.2], np.float32)


@dataclass(frozen=True)
class Answered:
    row: Row


class Told:
    def __init__(self) -> None:
        self.audits: queue.Queue[tuple[bool, bool]] = queue.Queue()

    def audited(self, agrees: bool, alarm: bool) -> None:
        self.audits.put((agrees, alarm))


def plan(share: float = 1.0, fall_back: bool = True) -> AuditPlan:
    return AuditPlan(share, reference=0.1, delta=0.05, fall_back=fall_back)


@pytest.fixture
def make() -> Iterator[Callable[..., Auditor]]:
    made: list[Auditor] = []

    def auditor(ask: Ask, told: Told | None, audit: AuditPlan | None = None) -> Auditor:
        made.append(Auditor(audit or plan(), ask, told))
        return made[-1]

    yield auditor
    for one in made:
        one.stop()


def test_the_large_model_gets_the_sample_a_late_deadline_and_next_to_no_utility(make: Callable[..., Auditor]) -> None:
    asked: queue.Queue[tuple[Row, float, float]] = queue.Queue()

    def ask(row: Row, slo_ms: float, utility: float) -> Floats:
        asked.put((row, slo_ms, utility))
        return EARLY

    told = Told()
    make(ask, told).offer(Answered((b"text",)), EARLY)
    assert asked.get(timeout=10) == ((b"text",), auditing.SLO_MS, auditing.UTILITY)
    assert told.audits.get(timeout=10) == (True, False)


def test_other_probabilities_with_the_same_label_agree(make: Callable[..., Auditor]) -> None:
    told = Told()
    make(lambda *_: np.array([0.49, 0.51], np.float32), told).offer(Answered(()), EARLY)
    assert told.audits.get(timeout=10)[0]


def test_disagreement_raises_the_alarm_and_then_the_cascade_is_distrusted(make: Callable[..., Auditor]) -> None:
    told = Told()
    auditor = make(lambda *_: OTHER, told)
    alarm, n = False, 0
    while not alarm:
        assert not auditor.distrusts
        auditor.offer(Answered(()), EARLY)
        _, alarm = told.audits.get(timeout=10)
        n += 1
        assert n < 100
    assert auditor.distrusts


def test_without_fall_back_an_alarm_is_only_told(make: Callable[..., Auditor]) -> None:
    told = Told()
    auditor = make(lambda *_: OTHER, told, plan(fall_back=False))
    for _ in range(30):
        auditor.offer(Answered(()), EARLY)
    assert [told.audits.get(timeout=10) for _ in range(30)][-1] == (False, True)
    assert not auditor.distrusts


@pytest.mark.parametrize("error", [Rejected("busy"), ValueError("broken")])
def test_what_fails_is_not_counted_and_the_next_audit_goes_on(make: Callable[..., Auditor], error: Exception) -> None:
    told = Told()
    errors = [error]

    def ask(*_: object) -> Floats:
        if errors:
            raise errors.pop()
        return EARLY

    auditor = make(ask, told)
    auditor.offer(Answered(()), EARLY)
    auditor.offer(Answered(()), EARLY)
    assert told.audits.get(timeout=10) == (True, False)
    assert told.audits.empty()


def test_an_observer_that_fails_does_not_end_the_audits(make: Callable[..., Auditor]) -> None:
    class Failing(Told):
        def audited(self, agrees: bool, alarm: bool) -> None:
            super().audited(agrees, alarm)
            raise OSError("no metrics")

    told = Failing()
    auditor = make(lambda *_: EARLY, told)
    for _ in range(2):
        auditor.offer(Answered(()), EARLY)
        told.audits.get(timeout=10)


def test_only_the_share_is_audited(make: Callable[..., Auditor]) -> None:
    told = Told()
    auditor = make(lambda *_: EARLY, told, plan(share=0.1))
    drawn = random.Random(0)
    expected = sum(drawn.random() < 0.1 for _ in range(1000))
    assert 60 <= expected <= 140
    for _ in range(1000):
        auditor.offer(Answered(()), EARLY)
    for _ in range(expected):
        told.audits.get(timeout=10)
    auditor.stop()
    assert told.audits.empty()


def test_what_does_not_fit_into_the_queue_is_left_out_and_stop_does_not_wait_for_it(
    make: Callable[..., Auditor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auditing, "WAITING", 2)
    busy, go, told = threading.Semaphore(0), threading.Event(), Told()

    def ask(*_: object) -> Floats:
        busy.release()
        assert go.wait(timeout=20)
        return EARLY

    auditor = make(ask, told)
    auditor.offer(Answered(()), EARLY)
    assert busy.acquire(timeout=10)
    for _ in range(5):
        auditor.offer(Answered(()), EARLY)  # two wait, the others are left out; nothing blocks
    stopping = threading.Thread(target=auditor.stop)
    stopping.start()
    while not auditor._stopped:
        pass
    go.set()
    stopping.join(timeout=10)
    assert not stopping.is_alive()
    assert told.audits.qsize() == 1, "what waited is left out"
    assert not busy.acquire(blocking=False)


def test_after_the_stop_nothing_is_audited() -> None:
    told = Told()
    auditor = Auditor(plan(), lambda *_: EARLY, told)
    auditor.stop()
    auditor.offer(Answered(()), EARLY)
    auditor.stop()
    assert auditor._thread is None
    assert told.audits.empty()


def test_where_no_thread_can_be_started_an_audit_is_left_out_and_the_next_one_tries_again(
    make: Callable[..., Auditor], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()
    auditor = make(lambda row, slo_ms, utility: EARLY, told)
    with monkeypatch.context() as few:
        few.setattr(threading.Thread, "start", refuse)
        auditor.offer(Answered(("left out",)), EARLY)
    auditor.offer(Answered(("hello",)), EARLY)
    assert told.audits.get(timeout=10) == (True, False)
    assert told.audits.empty()
