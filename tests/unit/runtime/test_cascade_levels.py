"""Chains of small models, pruned texts, regressions, images and audits."""

from __future__ import annotations

import threading
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
    answers,
    arrays,
    at,
    images,
    intent,
    large,
    opinions,
    reject,
    request,
    serving,
    similarity,
    small_probabilities,
)

from elastriton.core.audit import AuditPlan
from elastriton.core.errors import InvalidInput
from elastriton.core.plan import CascadePlan, SmallPlan
from elastriton.core.profile import Artifact, TextSpec
from elastriton.core.pruning import Pruning
from elastriton.generator.prepare import prepare_small
from elastriton.runtime import cascading
from elastriton.runtime.executor import Arrays
from elastriton.runtime.preparing import Texts
from elastriton.runtime.scheduling import Parameters
from elastriton.runtime.small import SmallModel
from elastriton.runtime.texts import TextTokenizer
from elastriton.runtime.words import Shortened


@pytest.fixture(scope="module")
def plan(tiny_build: Path) -> CascadePlan:
    return intent(tiny_build)


@pytest.fixture(scope="module")
def ratings(tiny_build: Path) -> CascadePlan:
    return similarity(tiny_build)


@pytest.fixture
def counts() -> Counts:
    return Counts()


def test_a_text_too_long_for_the_small_model_goes_to_the_large_one_alone(plan: CascadePlan, tiny_build: Path) -> None:
    short = replace(at(plan, 0.0), small_weight=0.9, pruning=Pruning(keep_rate=0.1, floor=1))
    short = replace(short, small=(replace(short.small[0], text=TextSpec(5)),))
    lengths: list[int] = []

    def call(model: str, inputs: Arrays, parameters: Parameters, request_id: str) -> Arrays:
        lengths.append(inputs["INPUT_IDS"].shape[1])
        return large(model, inputs, parameters, request_id)

    with serving(short, tiny_build, call) as service:
        (outcome,) = map(arrays, answers(service, request(EASY, HARD)))
    assert outcome["LEVEL"].tolist() == [[1], [0]]
    np.testing.assert_allclose(outcome["PROBABILITIES"][0], [0.1, 0.1, 0.8])
    assert lengths == [6], "whole: nobody has paid attention to its words"


class Guarded:
    """A tokenizer that must not be given more than `most` characters."""

    def __init__(self, tokenizer: Any, most: int) -> None:
        self._tokenizer, self._most = tokenizer, most

    def encode(self, first: str, second: str | None) -> Any:
        assert len(first) <= self._most, "to tokenise a megabyte takes a second, in which nobody else is answered"
        return self._tokenizer.encode(first, second)


def test_no_tokenizer_is_given_a_text_of_far_too_many_bytes(
    plan: CascadePlan, tiny_build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = at(plan, 0.0)
    short = replace(short, small=(replace(short.small[0], text=TextSpec(5)),))
    with serving(short, tiny_build) as service:
        for preparation, most in ((service._small[0].preparation, 320), (service._large.preparation, 1024)):
            assert isinstance(preparation, Texts)
            guarded = Guarded(preparation.tokenizer._tokenizer, most)
            monkeypatch.setattr(preparation.tokenizer, "_tokenizer", guarded)
        refused, blank, fine = answers(
            service, request("hello " * 40_000), request("hello" + 1000 * " "), request(HARD)
        )
    assert isinstance(refused, InvalidInput)
    assert arrays(blank)["LEVEL"].tolist() == [[1]], "more than the small model's tokenizer may be given"
    assert arrays(fine)["LEVEL"].tolist() == [[0]]


def test_a_re_routed_text_is_shortened_to_what_the_small_model_attends_to(
    plan: CascadePlan, tiny_build: Path, counts: Counts
) -> None:
    read: list[list[int]] = []

    def call(model: str, inputs: Arrays, parameters: Parameters, request_id: str) -> Arrays:
        read.append(inputs["INPUT_IDS"][0].tolist())
        return large(model, inputs, parameters, request_id)

    pruned = replace(at(plan, 1.1), pruning=Pruning(keep_rate=0.5, floor=1))
    with serving(pruned, tiny_build, call, counts) as service:
        answers(service, request(EASY))
    (opinion,) = opinions(plan, tiny_build, EASY)
    assert opinion.attention is not None
    words = EASY.split()  # each is one token, between [CLS] and [SEP]
    best = sorted(np.argsort(-opinion.attention[1:-1])[:2])
    assert plan.tokenizer is not None
    expected = TextTokenizer(tiny_build / plan.tokenizer.path, 16).encode([" ".join(words[i] for i in best)])
    assert read == [expected.ids.tolist()]
    assert counts.words == [(4, 2)]


def test_a_shortened_text_that_has_become_too_long_is_read_as_it_came(
    plan: CascadePlan, tiny_build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longer = Shortened(("hello " * 40,), 4, 4)
    monkeypatch.setattr(cascading, "shorten", lambda *_: longer)
    pruned = replace(at(plan, 1.1), pruning=Pruning(keep_rate=0.5, floor=1))
    with serving(pruned, tiny_build) as service:
        (outcome,) = map(arrays, answers(service, request(EASY)))
    assert (outcome["LEVEL"].tolist(), outcome["FALLBACK"].tolist()) == ([[1]], [[False]])


def two_stages(plan: CascadePlan, folder: Path) -> tuple[CascadePlan, dict[int, str]]:
    """A plan of two small models and one text for each of the three levels."""
    texts = (EASY, HARD, OTHER, "hi", "goodbye", "tea tea tea tea", "see you", "two please")
    stages = at(plan, 0.0, 0.0)
    first, second = ([one.confidence for one in opinions(stages, folder, *texts, level=i)] for i in range(2))
    order = np.argsort(first)  # the second is the first, sharper: both rank the texts alike
    low, middle, high = order[0], order[len(order) // 2], order[-1]
    thresholds = (first[middle] + first[high]) / 2, (second[low] + second[middle]) / 2
    assert first[middle] < thresholds[0] < first[high]
    assert second[low] < thresholds[1] < second[middle]
    return at(plan, *map(float, thresholds)), {0: texts[high], 1: texts[middle], 2: texts[low]}


def test_three_levels_answer_in_turn(plan: CascadePlan, tiny_build: Path, counts: Counts) -> None:
    stages, texts = two_stages(plan, tiny_build)
    stages = replace(stages, small_weight=0.5)
    with serving(stages, tiny_build, observer=counts) as service:
        together = arrays(answers(service, request(texts[2], texts[0], texts[1]))[0])
        counts.wait_for_outcomes(3)
    assert together["LEVEL"].tolist() == [[2], [0], [1]]
    for level in (0, 1):
        (opinion,) = opinions(stages, tiny_build, texts[level], level=level)
        np.testing.assert_allclose(together["PROBABILITIES"][level + 1], opinion.values, atol=1e-5)
    (last,) = opinions(stages, tiny_build, texts[2], level=1)
    blended = 0.5 * last.values + 0.5 * np.array([0.1, 0.1, 0.8])
    np.testing.assert_allclose(together["PROBABILITIES"][0], blended, atol=1e-5)
    assert sorted(counts.answers) == [(0, False), (1, False), (2, False)]


def test_the_second_small_model_answers_while_every_route_to_the_large_one_is_taken(
    plan: CascadePlan, tiny_build: Path
) -> None:
    stages, texts = two_stages(plan, tiny_build)
    taken, go = threading.Semaphore(0), threading.Event()

    def call(model: str, inputs: Arrays, parameters: Parameters, request_id: str) -> Arrays:
        taken.release()
        assert go.wait(timeout=20)
        return large(model, inputs, parameters, request_id)

    with serving(stages, tiny_build, call) as service:
        hard = [request(texts[2]) for _ in range(cascading.ROUTES + 1)]
        service.handle([one for _, one in hard])
        for _ in range(cascading.ROUTES):
            assert taken.acquire(timeout=20)
        (outcome,) = map(arrays, answers(service, request(texts[1])))
        assert outcome["LEVEL"].tolist() == [[1]]
        assert all(outcomes.empty() for outcomes, _ in hard)
        go.set()
        for outcomes, _ in hard:
            assert arrays(outcomes.get(timeout=10))["LEVEL"].tolist() == [[2]]


def test_what_only_the_first_of_two_small_models_can_read_is_the_large_one_s_alone(
    plan: CascadePlan, tiny_build: Path
) -> None:
    stages = replace(at(plan, 1.1, 0.0), small_weight=0.9, pruning=Pruning(keep_rate=0.1, floor=1))
    stages = replace(stages, small=(stages.small[0], replace(stages.small[1], text=TextSpec(5))))
    with serving(stages, tiny_build) as service:
        (outcome,) = map(arrays, answers(service, request(EASY, HARD)))
    assert outcome["LEVEL"].tolist() == [[2], [1]]
    np.testing.assert_allclose(outcome["PROBABILITIES"][0], [0.1, 0.1, 0.8], atol=1e-6)
    with serving(stages, tiny_build, reject) as service:
        (outcome,) = map(arrays, answers(service, request(EASY)))
    assert (outcome["LEVEL"].tolist(), outcome["FALLBACK"].tolist()) == ([[0]], [[True]])


PAIRS = [("hello", "hi there"), ("buy", "tea"), ("see you", "goodbye"), ("two tea please", "good morning")]


def rate(model: str, inputs: Arrays, parameters: Parameters, request_id: str) -> Arrays:
    assert inputs["TOKEN_TYPE_IDS"].any(), "a pair"
    return {"SCORE": np.array([[4.0]], np.float32), "GAMMA": np.array([[0]], np.int32)}


def test_a_regression_answers_early_where_it_expects_little_error(ratings: CascadePlan, tiny_build: Path) -> None:
    said = opinions(ratings, tiny_build, *PAIRS)
    *_, third, high = sorted(one.confidence for one in said)
    assert third < high
    split = replace(ratings, small_weight=0.25)
    split = replace(split, small=(replace(split.small[0], threshold=(third + high) / 2),))
    with serving(split, tiny_build, rate) as service:
        (outcome,) = map(arrays, answers(service, request(*PAIRS)))
    for row, opinion in enumerate(said):
        early = opinion.confidence == high
        expected = float(opinion.values[0]) if early else 0.25 * float(opinion.values[0]) + 0.75 * 4.0
        assert outcome["SCORE"][row, 0] == pytest.approx(expected, abs=1e-4)
        assert outcome["LEVEL"][row, 0] == (0 if early else 1)
    assert outcome.keys() == {"SCORE", "LEVEL", "GAMMA", "FALLBACK"}


def test_a_regression_falls_back_to_its_small_model_s_value(ratings: CascadePlan, tiny_build: Path) -> None:
    (opinion,) = opinions(ratings, tiny_build, PAIRS[0])
    never = replace(ratings, small=(replace(ratings.small[0], threshold=1.0),))
    with serving(never, tiny_build, reject) as service:
        (outcome,) = map(arrays, answers(service, request(PAIRS[0])))
    assert outcome["SCORE"][0, 0] == pytest.approx(float(opinion.values[0]), abs=1e-4)
    assert outcome["FALLBACK"].tolist() == [[True]]


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory, tiny_vit: Path) -> tuple[CascadePlan, Path]:
    """A vision cascade whose small model is the tiny ViT."""
    folder = tmp_path_factory.mktemp("colours")
    labels = ("red", "green", "blue")
    image = prepare_small("colour", 0, str(tiny_vit), "vision", {labels}, tiny_vit, folder).image
    small = SmallPlan(Artifact("colour_small0", ""), 1.0, 0.0, max_batch=4, image=image)
    plan = CascadePlan("colour", "vision", "classification", labels, 1, "vit_scheduler", 5000.0, 8, image=image)
    return replace(plan, small=(small,)), folder


def test_a_vision_cascade_answers_what_its_small_model_is_sure_of(
    colours: tuple[CascadePlan, Path], make_jpeg: Any
) -> None:
    plan, folder = colours
    pictures = [make_jpeg(colour, noise=i) for i, colour in enumerate(("red", "green", "blue", "red", "green"))]
    model = SmallModel(plan, 0, folder)
    read = [model.preparation.read((picture,)) for picture in pictures]
    said = model.opinions(read[:4]) + model.opinions(read[4:])
    *_, second, first = sorted(one.confidence for one in said)
    calls: list[Arrays] = []

    def call(model: str, inputs: Arrays, parameters: Parameters, request_id: str) -> Arrays:
        calls.append(inputs)
        return large(model, inputs | {"INPUT_IDS": inputs["PIXELS"]}, parameters, request_id)

    with serving(at(plan, (first + second) / 2), folder, call) as service:
        outcome, bad, huge = answers(service, images(*pictures), images(b"no picture"), images(bytes((32 << 20) + 1)))
        rows = arrays(outcome)
    for row, opinion in enumerate(said):
        early = opinion.confidence == first
        assert rows["LEVEL"][row, 0] == (0 if early else 1)
        np.testing.assert_allclose(rows["PROBABILITIES"][row], opinion.values if early else [0.1, 0.1, 0.8], atol=1e-5)
    assert sum(level == 0 for (level,) in rows["LEVEL"].tolist()) == 1
    assert type(bad) is type(huge) is InvalidInput
    assert str(huge) == "IMAGE has 33554433 bytes; it must have between 1 and 33554432"
    assert len(calls) == len(pictures) - 1
    assert calls[0].keys() == {"PIXELS", "TASK"}
    assert any((calls[0]["PIXELS"][0] == one).all() for one in read)


def test_early_answers_are_audited_and_end_with_the_alarm(plan: CascadePlan, tiny_build: Path, counts: Counts) -> None:
    (early,) = small_probabilities(plan, tiny_build, EASY)
    other = np.roll(early, 1)  # whatever the small model says, the large one says another label
    asked: list[Parameters] = []

    def call(model: str, inputs: Arrays, parameters: Parameters, request_id: str) -> Arrays:
        asked.append(parameters)
        return {"PROBABILITIES": other[None], "GAMMA": np.array([[0]], np.int32)}

    audited = replace(at(plan, 0.0), audit=AuditPlan(share=1.0, reference=0.05, delta=0.05, fall_back=True))
    with serving(audited, tiny_build, call, counts) as service:
        alarm, sent = False, 0
        while not alarm:
            (outcome,) = map(arrays, answers(service, request(EASY)))
            assert outcome["LEVEL"].tolist() == [[0]]
            agrees, alarm = counts.audits.get(timeout=10)
            sent += 1
            assert not agrees
            assert sent < 100
        (outcome,) = map(arrays, answers(service, request(EASY)))
    assert outcome["LEVEL"].tolist() == [[1]]
    np.testing.assert_allclose(outcome["PROBABILITIES"], other[None], atol=1e-6)
    assert {float(parameters["slo_ms"]) for parameters in asked[:-1]} == {20_000.0}
    assert {float(parameters["utility"]) for parameters in asked[:-1]} == {1e-6}
    assert [parameters.get("background", False) for parameters in asked] == [True] * (len(asked) - 1) + [False]


def test_what_the_large_model_says_at_another_level_is_no_audit(
    plan: CascadePlan, tiny_build: Path, counts: Counts
) -> None:
    """The promise compares with the plain level: under load the alarm would be about the level, not the cascade."""
    (early,) = small_probabilities(plan, tiny_build, EASY)
    gammas = iter([-8, 4, 0])

    def call(model: str, inputs: Arrays, parameters: Parameters, request_id: str) -> Arrays:
        return {"PROBABILITIES": early[None], "GAMMA": np.array([[next(gammas)]], np.int32)}

    audited = replace(at(plan, 0.0), audit=AuditPlan(share=1.0, reference=0.05, delta=0.05, fall_back=True))
    with serving(audited, tiny_build, call, counts) as service:
        for _ in range(3):
            answers(service, request(EASY))
        assert counts.audits.get(timeout=10) == (True, False)
    assert counts.audits.empty()
    assert next(gammas, None) is None


def test_an_alarm_without_a_fall_back_changes_no_answer(plan: CascadePlan, tiny_build: Path, counts: Counts) -> None:
    (early,) = small_probabilities(plan, tiny_build, EASY)

    def call(model: str, inputs: Arrays, parameters: Parameters, request_id: str) -> Arrays:
        return {"PROBABILITIES": np.roll(early, 1)[None], "GAMMA": np.array([[0]], np.int32)}

    audited = replace(at(plan, 0.0), audit=AuditPlan(share=1.0, reference=0.05, delta=0.5, fall_back=False))
    with serving(audited, tiny_build, call, counts) as service:
        for _ in range(30):
            (outcome,) = map(arrays, answers(service, request(EASY)))
            assert outcome["LEVEL"].tolist() == [[0]]
            _, alarm = counts.audits.get(timeout=10)
    assert alarm
