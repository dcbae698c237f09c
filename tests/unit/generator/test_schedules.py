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
from elastriton.generator.schedules import Cost, closest, propose, search
from elastriton.generator.trials import FitPart, judge
from elastriton.runtime.executor import example_inputs, load_executor
from elastriton.runtime.models import load_vision

COST = Cost(tokens=65, depth=6, width=192, patch=8, merge_share=0.02)
CONSTANT = constant_level(-8, 6)


def silent(step: str) -> None:
    pass


def late(level: TokenLevel, every: int) -> tuple[float, ...]:
    """The divergence of one task by which early merges cost more."""
    return (float(sum((6 - layer) * merge for layer, merge in enumerate(level.merge[:-1]))),)


class Machine:
    """Takes the time that `Cost` predicts, times `factor` for what it has not seen before."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor
        self.timed: list[TokenLevel] = []

    def __call__(self, levels: Sequence[TokenLevel]) -> list[tuple[float, ...]]:
        self.timed += levels
        factors = [self.factor if level.keep_norm else 1.0 for level in levels]
        costs = [COST(level) if level.gamma else 1.0 for level in levels]
        return [(100.0 * f * c, 400.0 * f * c) for f, c in zip(factors, costs, strict=True)]


def test_the_cost_of_a_list_counts_flops_and_merging_layers() -> None:
    free = Cost(65, 6, 192, 8)
    assert COST(CONSTANT) == pytest.approx(free(CONSTANT) + 5 * 0.02)
    once = TokenLevel(-8, (0, 8, 0, 0, 0, 8))
    assert COST(once) == pytest.approx(free(once) + 0.02)
    assert free(once) > free(CONSTANT)
    measured = [COST(constant_level(gamma, 6)) for gamma in (-8, -16)]
    assert free.fitted([constant_level(gamma, 6) for gamma in (-8, -16)], measured).merge_share == pytest.approx(0.02)


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
        assert 0.8 * budget < COST(level) <= budget


def test_the_proposals_of_a_mild_level_have_many_shapes() -> None:
    lists = [level.merge for level in propose(-8, COST(CONSTANT), COST)]
    assert any(merge[0] == 0 for merge in lists)
    assert any(sum(number > 0 for number in merge) == 1 for merge in lists)
    assert any(list(merge[:-1]) == sorted(merge[:-1]) for merge in lists)
    assert any(list(merge[:-1]) == sorted(merge[:-1], reverse=True) for merge in lists)


def test_the_closest_is_found_and_the_first_level_defends_itself() -> None:
    proposals = propose(-8, COST(CONSTANT), COST)
    best = closest([CONSTANT, *proposals], late)
    assert late(best, 1) == min(late(level, 1) for level in proposals) < late(CONSTANT, 1)
    assert closest([CONSTANT, *proposals], lambda level, every: (float(level != CONSTANT),)) == CONSTANT


def test_what_one_task_loses_by_is_not_chosen_however_much_another_gains() -> None:
    proposals = propose(-8, COST(CONSTANT), COST)
    greedy = closest([CONSTANT, *proposals], late)

    def two(level: TokenLevel, every: int) -> tuple[float, ...]:
        return (*late(level, every), 0.01 * (level == greedy))

    best = closest([CONSTANT, *proposals], two)
    assert best not in (greedy, CONSTANT)
    assert late(best, 1) == min(late(level, 1) for level in proposals if level != greedy)


def test_what_is_faster_than_predicted_gets_a_larger_budget() -> None:
    machine = Machine(factor=0.8)
    [found] = search([CONSTANT], Cost(65, 6, 192, 8), late, machine, silent)
    first = next(level for level in machine.timed if level.keep_norm)
    assert COST(first) < COST(found)
    assert 0.8 * COST(found) <= COST(CONSTANT)
    assert late(found, 1) < late(first, 1)


def test_a_search_keeps_names_and_time_and_comes_closer() -> None:
    constants = [constant_level(gamma, 6) for gamma in (-16, -8)]
    found = search(constants, Cost(65, 6, 192, 8), late, Machine(), silent)
    for constant, level in zip(constants, found, strict=True):
        assert level.gamma == constant.gamma
        assert late(level, 1) < late(constant, 1)
        assert COST(level) <= COST(constant)


def test_what_is_slower_than_predicted_gets_a_smaller_budget() -> None:
    machine = Machine(factor=1.1)
    [found] = search([CONSTANT], Cost(65, 6, 192, 8), late, machine, silent)
    assert found.keep_norm
    assert 1.1 * COST(found) <= COST(CONSTANT)
    first = next(level for level in machine.timed if level.keep_norm)
    assert COST(found) < COST(first)


def test_what_never_keeps_the_time_leaves_the_constant_list() -> None:
    assert search([CONSTANT], Cost(65, 6, 192, 8), late, Machine(factor=9.0), silent) == (CONSTANT,)


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
    assert all(COST(TokenLevel(-16, merge)) <= COST(constant_level(-16, 6)) for merge in twice)
    assert len({level.merge for level in proposals}) == len(proposals)
