"""Cascades as they are served: pruned texts, regressions, fallbacks and audits, over both protocols."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from elastriton.client import Answer, Client
from elastriton.core.audit import AuditPlan
from elastriton.core.plan import CascadePlan, Plan, SmallPlan
from elastriton.core.profile import CascadeProfile, load_profile
from elastriton.core.pruning import Pruning
from elastriton.core.records import load
from elastriton.generator.repository import generate
from elastriton.generator.serve import Server
from elastriton.runtime.small import Opinion, SmallModel

TEXTS = ["hello there good morning", "buy tea", "two please bye you see hi", "goodbye", "see you there", "tea tea tea"]
PAIRS = [("hello", "hi there"), ("buy", "tea"), ("see you", "goodbye"), ("two tea please", "good morning")]


def opinions(plan: CascadePlan, folder: Path, rows: list[Any]) -> list[Opinion]:
    model = SmallModel(plan, 0, folder)
    return model.opinions([model.preparation.read((row,) if isinstance(row, str) else row) for row in rows])


def with_small(plan: CascadePlan, cascade: CascadeProfile | None) -> CascadePlan:
    assert cascade is not None
    one = cascade.small[0]
    small = SmallPlan(one.artifact, 1.0, 0.0, max(cell.batch for cell in one.latency), text=one.text)
    return replace(plan, small=(small,), small_weight=0.0, pruning=None, audit=None)


def halved(plan: CascadePlan, folder: Path, rows: list[Any]) -> tuple[CascadePlan, list[bool]]:
    """The plan with a threshold amid the confidences, and which rows that answers early."""
    sure = [one.confidence for one in opinions(plan, folder, rows)]
    low, high = sorted(sure)[len(sure) // 2 - 1 : len(sure) // 2 + 1]
    threshold = (low + high) / 2
    assert low < threshold < high
    return replace(plan, small=(replace(plan.small[0], threshold=threshold),)), [one >= threshold for one in sure]


@pytest.fixture(scope="module")
def plans(tiny_build: Path) -> dict[str, CascadePlan]:
    plan, profile = load(Plan, tiny_build / "plan.json"), load_profile(tiny_build / "profile.json")
    intent = with_small(plan.cascades["intent_cascade"], profile.tasks["intent"].cascade)
    audit = AuditPlan(share=1.0, reference=0.01, delta=0.9, fall_back=False)
    ratings = with_small(plan.cascades["similarity_cascade"], profile.tasks["similarity"].cascade)
    return {
        "intent_cascade": replace(intent, pruning=Pruning(keep_rate=0.5, floor=1), audit=audit),
        "similarity_cascade": replace(ratings, score="uncertainty", small_weight=0.25),
    }


@pytest.fixture(scope="module")
def early(plans: dict[str, CascadePlan], tiny_build: Path) -> dict[str, list[bool]]:
    """Which texts and pairs are answered early; the plans get the thresholds for that."""
    found = {}
    for name, rows in (("intent_cascade", TEXTS), ("similarity_cascade", PAIRS)):
        plans[name], found[name] = halved(plans[name], tiny_build, rows)
    return found


@pytest.fixture(scope="module")
def tiny_server(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_build: Path,
    serve_repository: Callable[..., Server],
    plans: dict[str, CascadePlan],
    early: dict[str, list[bool]],
) -> Server:
    """The tiny project with cascades that are sure of half of the texts."""
    plan = load(Plan, tiny_build / "plan.json")
    repository = tmp_path_factory.mktemp("cascades") / "repository"
    generate(replace(plan, cascades={**plan.cascades, **plans}), tiny_build, repository)
    return serve_repository(repository)


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url, timeout_s=60.0) as client:
        yield client


def metric(server: Server, name: str, *labels: str) -> float:
    with urllib.request.urlopen(server.metrics_url, timeout=10) as response:
        lines = response.read().decode().splitlines()
    ours = [line for line in lines if line.startswith(name + "{") and all(label in line for label in labels)]
    assert ours, f"no {name} with {labels}"
    return sum(float(line.rsplit(" ", 1)[1]) for line in ours)


def until(told: Callable[[], bool]) -> bool:
    """Whether metrics, which follow the answers, say so before long."""
    deadline_s = time.monotonic() + 30.0
    while not told() and time.monotonic() < deadline_s:
        time.sleep(0.1)
    return told()


def test_unsure_texts_are_pruned_on_their_way_to_the_large_model(
    client: Client, tiny_server: Server, early: dict[str, list[bool]]
) -> None:
    model = 'model="intent_cascade"'
    words = "elastriton_cascade_words_total"
    in_time = ("elastriton_outcomes_total", model, 'task="intent"', 'outcome="in_time"')

    def totals() -> list[float]:
        by_pruning = [metric(tiny_server, words, model, f'pruning="{what}"') for what in ("kept", "cut")]
        return [*by_pruning, metric(tiny_server, *in_time)]

    time.sleep(1.0)  # earlier tests' answers are counted by now
    before = totals()
    answers = client.classify("intent", texts=TEXTS)
    assert [answer.level == 0 for answer in answers] == early["intent_cascade"]
    assert not any(answer.fallback for answer in answers)
    rerouted = [len(text.split()) for text, sure in zip(TEXTS, early["intent_cascade"], strict=True) if not sure]
    kept = sum((n + 1) // 2 for n in rerouted)
    counted = [kept, sum(rerouted) - kept, len(TEXTS)]  # early answers as well
    expected = [then + more for then, more in zip(before, counted, strict=True)]
    until(lambda: totals() == expected)
    assert totals() == expected


def test_a_regression_tells_its_score_level_and_fallback(
    client: Client, plans: dict[str, CascadePlan], early: dict[str, list[bool]], tiny_build: Path
) -> None:
    said = opinions(plans["similarity_cascade"], tiny_build, PAIRS)
    answers: list[Answer] = client.classify("similarity", texts=PAIRS)
    for answer, opinion, sure in zip(answers, said, early["similarity_cascade"], strict=True):
        assert answer.score is not None
        assert (answer.level, answer.fallback, answer.label) == (0 if sure else 1, False, None)
        if sure:
            assert answer.score == pytest.approx(float(opinion.values[0]), abs=1e-4)
    unsure = early["similarity_cascade"].index(False)
    [late] = client.classify("similarity", texts=[PAIRS[unsure]], slo_ms=0.5)
    assert (late.level, late.fallback) == (0, True)
    assert late.score == pytest.approx(float(said[unsure].values[0]), abs=1e-4)


def test_early_answers_are_audited_and_raise_the_alarm(
    client: Client, tiny_server: Server, early: dict[str, list[bool]]
) -> None:
    model = 'model="intent_cascade"'
    sure = [text for text, now in zip(TEXTS, early["intent_cascade"], strict=True) if now]
    before = metric(tiny_server, "elastriton_cascade_audits_total", model)
    client.classify("intent", texts=sure)
    deadline_s = time.monotonic() + 30.0
    while metric(tiny_server, "elastriton_cascade_audits_total", model) < before + len(sure):
        assert time.monotonic() < deadline_s, "the audits were not made within 30 s"
        time.sleep(0.05)
    disagreed = metric(tiny_server, "elastriton_cascade_audits_total", model, 'agrees="false"')
    assert disagreed > 0, "the tiny models do not agree on all of these"
    assert until(lambda: metric(tiny_server, "elastriton_cascade_alarm", model) == 1.0)
