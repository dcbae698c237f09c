"""The search for schedules: what is proposed, what is chosen, and what the profile of a real tiny model gets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from elastriton.core.errors import ConfigError
from elastriton.core.levels import TokenLevel, constant_level, token_counts
from elastriton.generator.config import load_config
from elastriton.generator.prepare import prepare_encoder
from elastriton.generator.schedules import Cost, closer, propose, search
from elastriton.generator.trials import FitPart, judge
from elastriton.runtime.executor import example_inputs, load_executor
from elastriton.runtime.models import load_vision

COST = Cost(tokens=65, depth=6, width=192, patch=8, prices=(0.03, 0.02))
NO_PRICE = Cost(65, 6, 192, 8)
CONSTANT = constant_level(-8, 6)


def silent(step: str) -> None:
    pass


def late(level: TokenLevel, every: int) -> tuple[float, ...]:
    """The divergence of one task by which early merges cost more."""
    return (float(sum((6 - layer) * merge for layer, merge in enumerate(level.merge[:-1]))),)


class Machine:
    """Takes the time that `Cost` predicts, times a factor by batch size for what it has not seen before."""

    def __init__(self, *factors: float) -> None:
        self.factors = factors or (1.0, 1.0)
        self.timed: list[TokenLevel] = []

    def __call__(self, levels: Sequence[TokenLevel]) -> list[tuple[float, ...]]:
        self.timed += levels
        costs = [COST(level) if level.gamma else (1.0, 1.0) for level in levels]
        factors = [self.factors if level.keep_norm else (1.0, 1.0) for level in levels]
        return [(100.0 * f * c, 400.0 * g * d) for (f, g), (c, d) in zip(factors, costs, strict=True)]

    @property
    def first(self) -> TokenLevel:
        """The first list that the search had timed."""
        return next(level for level in self.timed if level.keep_norm)


def within(level: TokenLevel, *factors: float) -> bool:
    """Whether the list takes no more than constant r's time at any batch size."""
    return all(f * own <= its for f, own, its in zip(factors, COST(level), COST(CONSTANT), strict=True))


def test_the_cost_of_a_list_counts_flops_and_merging_layers() -> None:
    (free,) = NO_PRICE(CONSTANT)
    assert COST(CONSTANT) == pytest.approx((free + 5 * 0.03, free + 5 * 0.02))
    once = TokenLevel(-8, (0, 8, 0, 0, 0, 8))
    assert COST(once) == pytest.approx((NO_PRICE(once)[0] + 0.03, NO_PRICE(once)[0] + 0.02))
    assert NO_PRICE(once) > NO_PRICE(CONSTANT)
    levels = [constant_level(gamma, 6) for gamma in (-8, -16)]
    assert NO_PRICE.fitted(levels, [COST(level) for level in levels]).prices == pytest.approx(COST.prices)


def test_effective_numbers_are_those_of_the_encoder() -> None:
    level = constant_level(-20, 6)
    effective = COST.effective(level.merge)
    assert effective[-1] == 0
    assert token_counts(TokenLevel(-20, effective), 65, 6)[:-1] == token_counts(level, 65, 6)[:-1]


@pytest.mark.parametrize("gamma", [-4, -8, -16, -20])
def test_proposals_are_within_the_budget_and_merge_no_more_than_it_takes(gamma: int) -> None:
    budget = COST(constant_level(gamma, 6))
    proposals = propose(gamma, budget, COST)
    assert len({level.merge for level in proposals}) == len(proposals) > 0
    for level in proposals:
        assert level.gamma == gamma
        assert level.keep_norm
        assert level.merge == COST.effective(level.merge)
        assert all(own <= most for own, most in zip(COST(level), budget, strict=True))
        assert any(0.8 * most < own for own, most in zip(COST(level), budget, strict=True))


def test_the_proposals_of_a_mild_level_have_many_shapes() -> None:
    lists = [level.merge for level in propose(-8, COST(CONSTANT), COST)]
    assert any(merge[0] == 0 for merge in lists)
    assert any(sum(number > 0 for number in merge) == 1 for merge in lists)
    assert any(list(merge[:-1]) == sorted(merge[:-1]) for merge in lists)
    assert any(list(merge[:-1]) == sorted(merge[:-1], reverse=True) for merge in lists)


def test_the_closest_come_first_and_what_is_no_closer_is_left_out() -> None:
    proposals = propose(-8, COST(CONSTANT), COST)
    found = closer(proposals, CONSTANT, late)
    assert late(found[0], 1) == min(late(level, 1) for level in proposals) < late(CONSTANT, 1)
    assert [late(level, 1) for level in found] == sorted(late(level, 1) for level in found)
    assert closer(proposals, found[0], late) == []
    assert closer(proposals, CONSTANT, lambda level, every: (float(level != CONSTANT),)) == []


def test_what_one_task_loses_by_is_not_chosen_however_much_another_gains() -> None:
    proposals = propose(-8, COST(CONSTANT), COST)
    greedy = closer(proposals, CONSTANT, late)[0]

    def two(level: TokenLevel, every: int) -> tuple[float, ...]:
        return (*late(level, every), 0.01 * (level == greedy))

    found = closer(proposals, CONSTANT, two)
    assert found
    assert greedy not in found


def test_what_is_faster_than_predicted_gets_a_larger_budget() -> None:
    machine = Machine(0.8, 0.8)
    [found] = search([CONSTANT], NO_PRICE, late, machine, silent)
    assert COST(machine.first) < COST(found)
    assert within(found, 0.8, 0.8)
    assert late(found, 1) < late(machine.first, 1)


def test_a_search_keeps_names_and_time_and_comes_closer() -> None:
    constants = [constant_level(gamma, 6) for gamma in (-16, -8)]
    found = search(constants, NO_PRICE, late, Machine(), silent)
    for constant, level in zip(constants, found, strict=True):
        assert level.gamma == constant.gamma
        assert late(level, 1) < late(constant, 1)
        assert COST(level) <= COST(constant)


@pytest.mark.parametrize("factors", [(1.1, 1.1), (1.0, 1.15), (1.15, 0.9)])
def test_what_is_slower_than_predicted_gets_a_smaller_budget(factors: tuple[float, float]) -> None:
    machine = Machine(*factors)
    [found] = search([CONSTANT], NO_PRICE, late, machine, silent)
    assert found.keep_norm
    assert within(found, *factors)
    assert not within(machine.first, *factors)


def test_where_nothing_comes_closer_the_budget_is_raised_by_the_margin() -> None:
    def dear(level: TokenLevel, every: int) -> tuple[float, ...]:
        return (float(not level.keep_norm or COST(level)[0] < 0.985 * COST(CONSTANT)[0]),)

    [found] = search([CONSTANT], NO_PRICE, dear, Machine(), silent)
    assert found.keep_norm
    assert within(found, 1.0, 1.0)


def test_no_list_is_timed_twice() -> None:
    machine = Machine(1.1, 1.1)
    search([CONSTANT], NO_PRICE, late, machine, silent)
    lists = [level for level in machine.timed if level.keep_norm]
    assert len(lists) == len(set(lists)) > 3


def test_what_never_keeps_the_time_leaves_the_constant_list() -> None:
    assert search([CONSTANT], NO_PRICE, late, Machine(9.0, 9.0), silent) == (CONSTANT,)


def project(folder: Path, tiny_vit: Path, images: Path | None) -> Path:
    encoder = {"kind": "vision", "model": str(tiny_vit), "levels": [-4, 0], "batches": [1, 8], "schedule": "search"}
    task = {"encoder": "vit", "slo_ms": 1000, **({"data": {"path": str(images)}} if images else {})}
    config = {"version": 1, "encoders": {"vit": encoder}, "tasks": {"colour": task}}
    (folder / "elastriton.yaml").write_text(json.dumps(config))
    return folder / "elastriton.yaml"


def test_a_searched_level_is_exported_and_runs(tmp_path: Path, tiny_vit: Path, tiny_project: Path) -> None:
    config = load_config(project(tmp_path, tiny_vit, tiny_project / "images"))
    told: list[str] = []
    prepared = prepare_encoder("vit", config, tmp_path, tmp_path / "build", told.append)
    assert [level.gamma for level in prepared.plan.levels] == [-4, 0]
    assert "schedules for level -4" in told
    executor = load_executor(prepared.plan, tmp_path / "build")
    assert executor.logits(example_inputs(prepared.plan.image, 2, 0), ["colour"] * 2, -4).shape == (2, 3)


def test_the_judge_sees_how_far_answers_move(tiny_vit: Path) -> None:
    model = load_vision(str(tiny_vit))
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (12, 32, 32, 3), generator=random, dtype=torch.uint8)
    part = FitPart(pixels, torch.randn(3, model.width, generator=random), torch.zeros(3))
    far = judge(model, [part, part])
    mild, harsh = constant_level(-1, model.depth), constant_level(-8, model.depth)
    for every in (1, 2):
        assert far(TokenLevel(0), every) == pytest.approx((0.0, 0.0), abs=1e-6)
        assert 0.0 < far(mild, every)[0] < far(harsh, every)[0]
    with torch.inference_mode():
        both = [F.linear(model.encoder(part.pixels, level), part.weight, part.bias) for level in (TokenLevel(0), mild)]
    plain, moved = (logits.double().softmax(-1) for logits in both)
    assert far(mild, 1)[0] == pytest.approx(float((plain * (plain / moved).log()).sum(-1).mean()), rel=1e-3)


def test_a_search_without_data_is_an_error(tmp_path: Path, tiny_vit: Path) -> None:
    config = load_config(project(tmp_path, tiny_vit, None))
    with pytest.raises(ConfigError, match=r"encoder vit has `schedule: search`, but none of its tasks has `data`"):
        prepare_encoder("vit", config, tmp_path, tmp_path / "build", silent)


def test_lists_that_stop_after_two_merges_are_proposed() -> None:
    proposals = propose(-16, COST(constant_level(-16, 6)), COST)
    twice = [level.merge for level in proposals if level.merge[0] and level.merge[1] and not any(level.merge[2:])]
    assert twice
    budget = COST(constant_level(-16, 6))
    assert all(own <= most for merge in twice for own, most in zip(COST(TokenLevel(-16, merge)), budget, strict=True))
    assert len({level.merge for level in proposals}) == len(proposals)
