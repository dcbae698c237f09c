"""The watch over early returns: what its evidence is worth, how seldom it alarms for nothing, how soon for a reason."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from elastriton.core.audit import Audit, AuditPlan
from elastriton.core.errors import ConfigError

DELTA = 0.1


def plan(reference: float = 0.05, delta: float = DELTA) -> AuditPlan:
    return AuditPlan(share=0.1, reference=reference, delta=delta, fall_back=True)


def watch(stream: NDArray[np.bool_], reference: float = 0.05) -> Audit:
    """An audit of a stream, up to its alarm."""
    audit = Audit(plan(reference))
    for disagrees in stream.tolist():
        audit.observe(disagrees)
        if audit.alarm:
            break
    return audit


def probability(stream: tuple[bool, ...], rates: tuple[float, ...]) -> float:
    return math.prod(rate if disagrees else 1.0 - rate for disagrees, rate in zip(stream, rates, strict=True))


def mean_wealth(reference: float, rates: tuple[float, ...]) -> float:
    """The expected wealth after one item at each of the rates, over all streams there are."""
    total = 0.0
    for stream in itertools.product([False, True], repeat=len(rates)):
        audit = Audit(plan(reference))
        for disagrees in stream:
            audit.observe(disagrees)
        total += probability(stream, rates) * audit.wealth
    return total


@pytest.mark.parametrize("reference", [0.01, 0.1, 0.5, 0.9])
def test_the_game_is_fair_at_the_reference(reference: float) -> None:
    assert mean_wealth(reference, (reference,) * 11) == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize("reference", [0.1, 0.5])
def test_the_game_is_losing_below_it_even_while_the_rate_wanders(reference: float) -> None:
    wandering = tuple(reference * share for share in (1.0, 0.2, 0.9, 0.0, 1.0, 0.5, 0.8, 1.0, 0.1, 0.7))
    assert mean_wealth(reference, wandering) <= 1.0


@pytest.mark.parametrize("reference", [0.05, 0.3])
def test_false_alarms_are_as_rare_as_promised_over_long_streams(reference: float) -> None:
    generator = np.random.default_rng(0)
    streams, length = 400, 1500
    alarms = sum(watch(generator.random(length) < reference, reference).alarm for _ in range(streams))
    assert alarms / streams <= DELTA + 3 * math.sqrt(DELTA * (1 - DELTA) / streams)


@pytest.mark.parametrize("reference", [0.02, 0.05, 0.3])
def test_a_doubled_rate_is_found(reference: float) -> None:
    """Within the time in which the large sample could tell them apart ten times over: 10 ln(1 / delta) / divergence."""
    generator = np.random.default_rng(1)
    twice = 2 * reference
    divergence = twice * math.log(2) + (1 - twice) * math.log((1 - twice) / (1 - reference))
    length = math.ceil(10 * math.log(1 / DELTA) / divergence)
    found = sum(watch(generator.random(length) < twice, reference).alarm for _ in range(100))
    assert found >= 95


def test_a_late_change_is_found_soon() -> None:
    """A long good past does not outvote the present: found within a fifth of it, while the mean rate is still good."""
    generator = np.random.default_rng(2)
    reference, past = 0.05, 5000
    for _ in range(20):
        before, after = generator.random(past) < 0.5 * reference, generator.random(past // 5) < 2 * reference
        audit = watch(np.concatenate([before, after]), reference)
        assert audit.alarm
        assert audit.seen > past
        assert audit.rate < reference


def test_it_counts_what_it_sees() -> None:
    audit = Audit(plan())
    assert (audit.seen, audit.disagreed, audit.rate, audit.wealth, audit.alarm) == (0, 0, 0.0, 1.0, False)
    for disagrees in (True, False, False, False):
        audit.observe(disagrees)
    assert (audit.seen, audit.disagreed, audit.rate) == (4, 1, 0.25)


def test_an_alarm_comes_at_one_over_delta_and_stays() -> None:
    audit = Audit(plan())
    while not audit.alarm:
        assert audit.wealth < 1 / DELTA
        audit.observe(True)
    assert audit.wealth >= 1 / DELTA
    for _ in range(5000):
        audit.observe(False)
    assert audit.wealth < 1 / DELTA
    assert audit.alarm


def test_no_stream_is_too_long_for_it() -> None:
    audit = Audit(plan(0.5))
    for _ in range(20_000):
        audit.observe(True)
    assert math.isfinite(audit.wealth)


@pytest.mark.parametrize(("reference", "delta"), [(0.0, 0.1), (1.0, 0.1), (0.1, 0.0), (0.1, 1.0), (math.nan, 0.1)])
def test_a_plan_that_cannot_be_watched_is_refused(reference: float, delta: float) -> None:
    with pytest.raises(ConfigError, match=r"audit: (reference|delta) is .*; pass a number in \(0, 1\)"):
        Audit(plan(reference, delta))
