"""What neighbours cost an encoder, as bench/restless.py and bench/surroundings.py reckon it."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import restless
from restless import Restless, Span, per_s
from surroundings import lost_ms


def test_a_batch_counts_for_the_part_of_it_that_is_within_the_span() -> None:
    batches = [(0.0, 1.0), (1.0, 2.0), (2.0, 4.0)]
    assert per_s(batches, (0.0, 4.0)) == pytest.approx(3 / 4)
    assert per_s(batches, (0.5, 3.0)) == pytest.approx((0.5 + 1.0 + 0.5) / 2.5)
    assert per_s(batches, (5.0, 6.0)) == 0.0


def test_requests_that_halve_the_speed_for_a_second_cost_half_of_it() -> None:
    assert lost_ms(0.5, (3.0, 4.0), requests=100) == pytest.approx(5.0)
    assert lost_ms(1.0, (3.0, 4.0), requests=100) == 0.0


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Restless]:
    """An encoder that sleeps, in a thread where a process would be."""

    class Sleeper:
        def logits(self, *_: object) -> None:
            time.sleep(0.002)

    monkeypatch.setattr(restless, "load_executor", lambda *_: Sleeper())
    monkeypatch.setattr(restless, "SETTLE_S", 0.01)
    monkeypatch.setattr(restless, "QUIET_S", 0.05)
    ours, theirs = multiprocessing.Pipe()
    nothing: Any = None
    thread = Thread(target=restless._encode, args=(nothing, Path(), b"", 0, theirs), daemon=True)
    thread.start()
    assert ours.recv() == "ready"
    yield Restless(ours)
    ours.send("end")
    thread.join(timeout=60)
    assert not thread.is_alive()


def a_neighbour() -> Span:
    """Works for a twentieth of a second."""
    from_s = time.perf_counter()
    time.sleep(0.05)
    return from_s, time.perf_counter()


def test_an_encoder_is_asked_beside_one_neighbour_after_the_other(encoder: Restless) -> None:
    for _ in range(2):
        speed, (from_s, to_s) = encoder.beside(a_neighbour)
        assert speed > 0.0
        assert to_s > from_s


def test_an_encoder_rests_and_goes_on_where_a_neighbour_fails(encoder: Restless) -> None:
    def failing() -> Span:
        raise RuntimeError("no server")

    with pytest.raises(RuntimeError, match="no server"):
        encoder.beside(failing)
    assert encoder.beside(a_neighbour)[0] > 0.0
