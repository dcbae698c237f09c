"""Who answers, with what, and what becomes of errors and late requests."""

from __future__ import annotations

import json
import queue
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cascade_service import (
    EASY,
    HARD,
    OTHER,
    Counts,
    Outcome,
    answers,
    arrays,
    at,
    intent,
    large,
    reject,
    request,
    serving,
    similarity,
    small_probabilities,
)

from elastriton.core.errors import Internal, InvalidInput, Rejected, Unavailable
from elastriton.core.parameters import parse_options
from elastriton.core.plan import CascadePlan
from elastriton.core.profile import TextSpec
from elastriton.runtime import cascading
from elastriton.runtime.executor import Arrays
from elastriton.runtime.reply import Reply, Request
from elastriton.runtime.scheduling import Parameters
from elastriton.runtime.small import SmallModel
from elastriton.runtime.texts import TextTokenizer


@pytest.fixture(scope="module")
def plan(tiny_build: Path) -> CascadePlan:
    return intent(tiny_build)


@pytest.fixture(scope="module")
def ratings(tiny_build: Path) -> CascadePlan:
    return similarity(tiny_build)


@pytest.fixture
def counts() -> Counts:
    return Counts()


def test_at_threshold_zero_the_small_model_answers_everything(plan: CascadePlan, tiny_build: Path) -> None:
    def call(model: str, inputs: Arrays, parameters: Parameters, request_id: str) -> Arrays:
        raise AssertionError("nothing is hard")

    expected = small_probabilities(plan, tiny_build, EASY, HARD, OTHER)
    with serving(at(plan, 0.0), tiny_build, call) as service:
        both, one = map(arrays, answers(service, request(EASY, HARD), request(OTHER)))
    np.testing.assert_allclose(both["PROBABILITIES"], expected[:2], atol=1e-5)
    np.testing.assert_allclose(one["PROBABILITIES"], expected[2:], atol=1e-5)
    assert both["LABEL"].tolist() == [[plan.labels[best].encode()] for best in expected[:2].argmax(-1)]
    assert both["LEVEL"].tolist() == both["GAMMA"].tolist() == [[0], [0]]


def test_above_every_confidence_the_large_model_answers_everything(plan: CascadePlan, tiny_build: Path) -> None:
    with serving(at(plan, 1.1), tiny_build) as service:
        (outcome,) = map(arrays, answers(service, request(EASY, HARD)))
    assert outcome["LABEL"].tolist() == [[b"order"], [b"order"]]
    np.testing.assert_allclose(outcome["PROBABILITIES"], [[0.1, 0.1, 0.8]] * 2)
    assert outcome["LEVEL"].tolist() == [[1], [1]]
    assert outcome["GAMMA"].tolist() == [[-4], [-4]]


def test_the_ensemble_weighs_both_levels_answers(plan: CascadePlan, tiny_build: Path) -> None:
    expected = 0.25 * small_probabilities(plan, tiny_build, HARD)[0] + 0.75 * np.array([0.1, 0.1, 0.8])
    with serving(replace(at(plan, 1.1), small_weight=0.25), tiny_build) as service:
        (outcome,) = map(arrays, answers(service, request(HARD)))
    np.testing.assert_allclose(outcome["PROBABILITIES"][0], expected, atol=1e-5)


@pytest.mark.parametrize("waited_ms", [0, 10_000])
def test_the_large_model_is_asked_for_one_sample_with_the_time_that_is_left(
    plan: CascadePlan, tiny_build: Path, waited_ms: int
) -> None:
    calls: list[tuple[str, Arrays, Parameters, str]] = []

    def call(model: str, inputs: Arrays, parameters: Parameters, request_id: str) -> Arrays:
        calls.append((model, inputs, parameters, request_id))
        return large(model, inputs, parameters, request_id)

    with serving(at(plan, 1.1), tiny_build, call) as service:
        sent_ms = int(time.time() * 1000.0) - waited_ms
        answers(service, request(HARD, slo_ms=30_000, utility=2.5, sent_unix_ms=sent_ms))
    ((model, inputs, parameters, request_id),) = calls
    assert plan.tokenizer is not None
    encoding = TextTokenizer(tiny_build / plan.tokenizer.path, 16).encode([HARD])
    assert (model, request_id, inputs["TASK"].tolist()) == ("bert_scheduler", "id-7", [[b"intent"]])
    assert inputs["INPUT_IDS"].tolist() == [encoding.ids.tolist()]
    assert inputs["ATTENTION_MASK"].tolist() == [[1] * len(encoding)]
    assert parameters["utility"] == "2.5"
    assert 0 < float(parameters["slo_ms"]) <= 30_000 - waited_ms


@pytest.mark.parametrize("slo_ms", [1e-4, 600_000.0, 700_000.0])
def test_the_time_that_is_left_is_one_that_the_scheduler_takes(
    plan: CascadePlan, tiny_build: Path, monkeypatch: pytest.MonkeyPatch, slo_ms: float
) -> None:
    taken: list[float | None] = []

    def call(model: str, inputs: Arrays, parameters: Parameters, request_id: str) -> Arrays:
        taken.append(parse_options(json.dumps(parameters)).slo_ms)
        return large(model, inputs, parameters, request_id)

    monkeypatch.setattr(cascading, "time", SimpleNamespace(time=time.time, monotonic=lambda: 1000.0))
    with serving(replace(at(plan, 1.1), slo_ms=slo_ms), tiny_build, call) as service:
        (outcome,) = map(arrays, answers(service, request(HARD)))
    assert outcome["FALLBACK"].tolist() == [[False]]
    assert taken == [pytest.approx(min(slo_ms, 600_000.0), rel=1e-3)]


def easy_and_hard(plan: CascadePlan, folder: Path) -> tuple[CascadePlan, str, str]:
    """The plan with a threshold between the small model's confidences of two texts."""
    texts = (EASY, HARD, OTHER, "hi", "goodbye", "tea tea tea tea", "see you", "two please")
    sure = small_probabilities(plan, folder, *texts).max(-1)
    easy, hard = int(sure.argmax()), int(sure.argmin())
    assert sure[easy] - sure[hard] > 1e-5
    return at(plan, float(sure[easy] + sure[hard]) / 2), texts[easy], texts[hard]


def test_an_easy_request_is_answered_while_the_hard_one_is_still_asked(plan: CascadePlan, tiny_build: Path) -> None:
    split, easy, hard = easy_and_hard(plan, tiny_build)
    asked, go = threading.Event(), threading.Event()

    def call(model: str, inputs: Arrays, parameters: Parameters, request_id: str) -> Arrays:
        asked.set()
        assert go.wait(timeout=20)
        return large(model, inputs, parameters, request_id)

    with serving(split, tiny_build, call) as service:
        (hard_outcomes, hard_one), (easy_outcomes, easy_one) = request(hard), request(easy)
        service.handle([hard_one, easy_one])
        assert arrays(easy_outcomes.get(timeout=10))["LEVEL"].tolist() == [[0]]
        assert asked.wait(timeout=10)
        assert hard_outcomes.empty()
        go.set()
        assert arrays(hard_outcomes.get(timeout=10))["LEVEL"].tolist() == [[1]]


def test_the_samples_of_one_request_keep_their_order_and_levels(plan: CascadePlan, tiny_build: Path) -> None:
    split, easy, hard = easy_and_hard(plan, tiny_build)
    with serving(split, tiny_build) as service:
        (outcome,) = map(arrays, answers(service, request(*[easy, hard] * 6)))
    assert outcome["LEVEL"].tolist() == [[0], [1]] * 6
    assert outcome["GAMMA"].tolist() == [[0], [-4]] * 6


def test_a_deadline_that_leaves_no_time_for_the_large_model_gets_the_small_one_s_answer(
    plan: CascadePlan, tiny_build: Path, counts: Counts
) -> None:
    expected = small_probabilities(plan, tiny_build, HARD)
    with serving(at(plan, 1.1), tiny_build, observer=counts) as service:
        late, fine = map(arrays, answers(service, request(HARD, slo_ms=0.0001), request(EASY)))
        counts.wait_for_outcomes(2)
    np.testing.assert_allclose(late["PROBABILITIES"], expected, atol=1e-5)
    assert (late["LEVEL"].tolist(), late["GAMMA"].tolist(), late["FALLBACK"].tolist()) == ([[0]], [[0]], [[True]])
    assert (fine["LEVEL"].tolist(), fine["FALLBACK"].tolist()) == ([[1]], [[False]])
    assert fine["FALLBACK"].dtype == np.bool_
    assert sorted(counts.answers) == [(0, True), (1, False)]
    assert sorted(counts.outcomes) == ["in_time", "late"]


def test_samples_that_get_an_error_are_counted_by_its_kind(plan: CascadePlan, tiny_build: Path, counts: Counts) -> None:
    def fail(model: str, inputs: Arrays, parameters: Parameters, request_id: str) -> Arrays:
        raise Unavailable("the scheduler is gone")

    alone = replace(plan, small=(), pruning=None, small_weight=0.0)
    for number, call in enumerate((reject, fail)):
        with serving(alone, tiny_build, call, observer=counts) as service:
            answers(service, request(HARD), request(EASY))
            counts.wait_for_outcomes(2 * number + 2)
    assert counts.outcomes == ["rejected", "rejected", "failed", "failed"]
    assert counts.answers == []


def test_what_the_client_got_wrong_is_not_counted_wherever_it_is_found(
    plan: CascadePlan, tiny_build: Path, counts: Counts
) -> None:
    short = replace(at(plan, 1.1), text=TextSpec(5))
    short = replace(short, small=(replace(short.small[0], text=TextSpec(5)),))
    with serving(short, tiny_build, observer=counts) as service:
        blank, long, fine = answers(service, request(""), request(EASY), request(HARD))
        counts.wait_for_outcomes(1)
    assert isinstance(blank, InvalidInput)
    assert isinstance(long, InvalidInput)
    assert arrays(fine)["LEVEL"].tolist() == [[1]]
    assert counts.outcomes == ["in_time"]


def test_what_only_the_small_model_can_read_has_its_answer_sure_or_not(
    plan: CascadePlan, tiny_build: Path, counts: Counts
) -> None:
    short = replace(at(plan, 1.1), text=TextSpec(5))  # the small model takes 16 tokens
    with serving(short, tiny_build, observer=counts) as service:
        long, fine = map(arrays, answers(service, request(EASY), request(HARD)))
        counts.wait_for_outcomes(2)
    assert (long["LEVEL"].tolist(), long["FALLBACK"].tolist()) == ([[0]], [[True]])
    np.testing.assert_allclose(long["PROBABILITIES"], small_probabilities(plan, tiny_build, EASY), atol=1e-6)
    assert fine["LEVEL"].tolist() == [[1]]
    assert counts.outcomes == ["in_time", "in_time"]


def test_what_the_scheduler_cannot_read_is_no_mistake_of_the_client_s(
    plan: CascadePlan, tiny_build: Path, counts: Counts
) -> None:
    def call(model: str, inputs: Arrays, parameters: Parameters, request_id: str) -> Arrays:
        raise InvalidInput("TASK is ['intent']")

    with serving(at(plan, 1.1), tiny_build, call, counts) as service:
        (outcome,) = answers(service, request(HARD))
        counts.wait_for_outcomes(1)
    assert type(outcome) is Internal
    assert str(outcome) == "bert_scheduler cannot read what the cascade sent: TASK is ['intent']"
    assert counts.outcomes == ["failed"]


def test_what_the_scheduler_rejects_gets_the_small_model_s_answer(plan: CascadePlan, tiny_build: Path) -> None:
    expected = small_probabilities(plan, tiny_build, HARD)
    with serving(replace(at(plan, 1.1), small_weight=0.5), tiny_build, reject) as service:
        (outcome,) = map(arrays, answers(service, request(HARD)))
    np.testing.assert_allclose(outcome["PROBABILITIES"], expected, atol=1e-5)
    assert outcome["FALLBACK"].tolist() == [[True]]


def test_without_a_small_model_s_opinion_a_rejection_stays_one(plan: CascadePlan, tiny_build: Path) -> None:
    with serving(replace(plan, small=()), tiny_build, reject) as service:
        (outcome,) = answers(service, request(HARD))
    assert type(outcome) is Rejected


def test_where_too_many_wait_for_the_large_model_the_small_one_s_answer_stands(
    plan: CascadePlan, tiny_build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cascading, "MAX_ROUTED", 1)
    go = threading.Event()

    def call(model: str, inputs: Arrays, parameters: Parameters, request_id: str) -> Arrays:
        assert go.wait(timeout=20)
        return large(model, inputs, parameters, request_id)

    with serving(at(plan, 1.1), tiny_build, call) as service:
        (first, one), (second, other) = request(HARD), request(EASY)
        service.handle([one, other])
        refused = [outcomes for outcomes in (first, second) if not outcomes.empty()]
        assert len(refused) == 1
        assert arrays(refused[0].get())["FALLBACK"].tolist() == [[True]]
        go.set()
        waited = second if refused[0] is first else first
        assert arrays(waited.get(timeout=10))["FALLBACK"].tolist() == [[False]]


@pytest.mark.parametrize(("raised", "kind"), [(Unavailable("gone"), Unavailable), (KeyError("GAMMA"), Internal)])
def test_an_error_of_the_large_model_reaches_only_its_own_request(
    plan: CascadePlan, tiny_build: Path, raised: Exception, kind: type
) -> None:
    split, easy, hard = easy_and_hard(plan, tiny_build)

    def call(model: str, inputs: Arrays, parameters: Parameters, request_id: str) -> Arrays:
        raise raised

    with serving(split, tiny_build, call) as service:
        failed, fine = answers(service, request(easy, hard), request(easy))
    assert type(failed) is kind
    assert arrays(fine)["LEVEL"].tolist() == [[0]]


@pytest.mark.parametrize("row", ["", "  ", b"\xff", "hello " * 200])
def test_a_bad_text_reaches_only_its_own_request(plan: CascadePlan, tiny_build: Path, row: str | bytes) -> None:
    with serving(at(plan, 0.0), tiny_build) as service:
        refused, fine = answers(service, request(EASY, row), request(EASY))
    assert isinstance(refused, InvalidInput)
    assert arrays(fine)["LEVEL"].tolist() == [[0]]


def test_bad_parameters_and_requests_without_samples_are_refused(plan: CascadePlan, tiny_build: Path) -> None:
    outcomes: queue.Queue[Outcome] = queue.Queue()
    nothing = Request({"TEXT": np.zeros((0, 1), object)}, "", 0, "", Reply(outcomes.put))
    with serving(at(plan, 0.0), tiny_build) as service:
        refused, empty = answers(service, request(EASY, slo_ms=-1), (outcomes, nothing))
    assert (type(refused), type(empty)) == (InvalidInput, InvalidInput)


def test_a_failing_small_model_is_an_internal_error(
    plan: CascadePlan, tiny_build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(at(plan, 0.0), tiny_build) as service:
        monkeypatch.setattr(SmallModel, "opinions", lambda *_: 1 / 0)
        (outcome,) = answers(service, request(EASY))
    assert type(outcome) is Internal
    assert "small model 0 failed: ZeroDivisionError" in str(outcome)


@pytest.mark.parametrize("levels", [1, 2])
def test_whatever_goes_wrong_between_the_models_is_an_answer(
    plan: CascadePlan, tiny_build: Path, monkeypatch: pytest.MonkeyPatch, levels: int
) -> None:
    with serving(at(plan, *[1.1] * levels), tiny_build) as service:
        monkeypatch.setattr(service, "_route" if levels == 1 else "_reread", lambda *_: 1 / 0)
        outcomes = answers(service, request(HARD), request(OTHER))
    assert [type(outcome) for outcome in outcomes] == [Internal, Internal]
    assert "ZeroDivisionError" in str(outcomes[0])


def test_without_small_models_everything_goes_straight_to_the_large_one(ratings: CascadePlan, tiny_build: Path) -> None:
    def call(model: str, inputs: Arrays, parameters: Parameters, request_id: str) -> Arrays:
        tokens = float(inputs["ATTENTION_MASK"].sum())
        return {"SCORE": np.array([[tokens]], np.float32), "GAMMA": np.array([[0]], np.int32)}

    with serving(replace(ratings, small=()), tiny_build, call) as service:
        fine, refused = answers(service, request(["hello", "hi there"], ["buy", "tea"]), request("hello"))
    assert arrays(fine)["SCORE"].tolist() == [[6.0], [5.0]]
    assert arrays(fine)["LEVEL"].tolist() == [[1], [1]]
    assert type(refused) is InvalidInput


def test_after_the_stop_easy_requests_are_answered_and_hard_ones_told_so(plan: CascadePlan, tiny_build: Path) -> None:
    split, easy, hard = easy_and_hard(plan, tiny_build)
    with serving(split, tiny_build) as service:
        service.stop()
        easy_outcome, hard_outcome = answers(service, request(easy), request(hard))
    assert arrays(easy_outcome)["LEVEL"].tolist() == [[0]]
    assert type(hard_outcome) is Unavailable
