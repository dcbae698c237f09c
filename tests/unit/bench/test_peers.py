from __future__ import annotations

import peers
import pytest
from peers import Fixed, INFaaS, ModelSwitching, PetS, Proteus, SlackFit, policies
from setting import synthetic
from table import Table

from elastriton.core.policy import Policy
from elastriton.core.queue import Item

SETTING = synthetic()  # deadlines of 65, 130 and 259 ms; level 0 takes 10.8 ms for one sample
TIGHT, MIDDLE, LOOSE = SETTING.tasks


def item(left_ms: float, arrived_ms: float = 0.0, task: int = 0) -> Item:
    chosen = SETTING.tasks[task]
    return Item(chosen.name, arrived_ms / 1e3, left_ms / 1e3, chosen.utility, SETTING.length)


def loaded(policy: Policy, per_s: float, seconds: float = 8.0) -> Policy:
    """The policy after `seconds` of even arrivals up to time 0."""
    count = int(per_s * seconds)
    for index in range(count):
        policy.arrived(item(0.0, 1000.0 * (index - count) / per_s))
    return policy


def test_fixed_runs_the_largest_batch_that_its_head_allows_and_drops_hopeless_heads() -> None:
    waiting = [item(5.0), item(20.0), *(item(200.0) for _ in range(9))]
    decision = Fixed(SETTING, 0).decide(waiting, 0.0, SETTING.outlook)
    assert decision.drop == tuple(waiting[:1])
    assert decision.batch == tuple(waiting[1:4])  # (6 + 4 x 3) x 1.08 = 19.4 ms
    assert decision.gamma == 0
    assert decision.finish_s == pytest.approx(0.01944)
    assert len(Fixed(SETTING, -10).decide(waiting, 0.0, SETTING.outlook).batch) == 5
    assert policies(SETTING)["clockwork"]().decide(waiting, 0.0, SETTING.outlook) == decision


def test_pets_serves_in_order_of_arrival_whatever_the_deadlines() -> None:
    waiting = [item(5.0 + index, arrived_ms=-index) for index in range(80)]
    decision = PetS(SETTING).decide(waiting, 0.0, SETTING.outlook)
    assert decision.batch == tuple(reversed(waiting[16:]))
    assert (decision.gamma, decision.drop) == (0, ())


def test_model_switching_follows_the_load() -> None:
    def level(per_s: float) -> int:
        policy = loaded(ModelSwitching(SETTING), per_s)
        return policy.decide([item(60.0)], 0.0, SETTING.outlook).gamma

    assert level(20.0) == 8
    assert -8 <= level(260.0) <= -4
    assert level(1000.0) == -10


def test_infaas_reacts_by_interval_and_never_goes_below_its_floor() -> None:
    policy = loaded(INFaaS(SETTING), 1000.0)
    assert policy.decide([item(60.0)], 0.0, SETTING.outlook).gamma == -8  # -10 has less than 90 % of level 0's
    later_s = peers.INTERVAL_S + 20.0
    assert policy.decide([item(999.0)], peers.INTERVAL_S / 2, SETTING.outlook).gamma == -8
    quiet = item(1000.0 * later_s + 60.0)
    assert policy.decide([quiet], later_s, SETTING.outlook).gamma == -6  # one step at a time


def test_proteus_mixes_the_two_levels_around_the_demand() -> None:
    table = Table(SETTING)
    proteus = Proteus(SETTING)
    per_s = (table.per_s[-6] + table.per_s[-4]) / 2
    shares = proteus.shares(per_s)
    assert sum(shares.values()) == pytest.approx(1.0)
    assert len(shares) == 2
    assert sum(share / table.per_s[gamma] for gamma, share in shares.items()) == pytest.approx(1 / per_s)
    assert proteus.shares(1e6) == {-10: 1.0}
    assert proteus.shares(1.0) == {8: 1.0}


def test_proteus_waits_for_company_as_long_as_its_head_allows() -> None:
    proteus = Proteus(SETTING)
    waiting = [item(60.0)]
    decision = proteus.decide(waiting, 0.0, SETTING.outlook)
    assert decision.batch == ()
    two_ms = SETTING.outlook.latency.safe_ms(8, 2, SETTING.length)
    assert decision.wake_s == pytest.approx((60.0 - two_ms) / 1000.0)
    assert decision.wake_s is not None
    assert proteus.decide(waiting, decision.wake_s, SETTING.outlook).batch == tuple(waiting)


def test_slackfit_takes_large_batches_at_fast_levels_under_pressure_and_accurate_ones_alone() -> None:
    alone = SlackFit(SETTING).decide([item(60.0)], 0.0, SETTING.outlook)
    assert alone.gamma == 8
    pressed = SlackFit(SETTING).decide([item(60.0) for _ in range(60)], 0.0, SETTING.outlook)
    assert pressed.gamma == -10
    assert len(pressed.batch) == 23  # (6 + 4 / 1.9 x 23) x 1.08 = 58.8 ms
    hopeless = [item(1.0), item(60.0)]
    assert SlackFit(SETTING).decide(hopeless, 0.0, SETTING.outlook).drop == tuple(hopeless[:1])


def test_every_policy_is_made_anew() -> None:
    made = policies(SETTING)
    assert {"ours", "joint-unpriced", "otas", "slackfit", "proteus", "infaas", "clockwork", "pets"} <= made.keys()
    assert {f"fixed({gamma})" for gamma in SETTING.outlook.latency.gammas} <= made.keys()
    assert made["otas"]() is not made["otas"]()
