from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elastriton.core.errors import Internal, InvalidInput, Rejected, RequestError, Unavailable
from elastriton.core.plan import CascadePlan, Plan
from elastriton.core.records import load
from elastriton.runtime.cascading import CascadeService, SmallModel
from elastriton.runtime.executor import Arrays
from elastriton.runtime.reply import Reply, Request
from elastriton.runtime.scheduling import Call, Parameters
from elastriton.runtime.texts import TextTokenizer

Outcome = dict[str, Any] | RequestError
EASY, HARD, OTHER = "hello there good morning", "buy tea", "two please bye you see hi"


@pytest.fixture(scope="module")
def plan(tiny_build: Path) -> CascadePlan:
    plan = load(Plan, tiny_build / "plan.json").cascades["intent_cascade"]
    assert plan.small is not None
    return replace(plan, small=replace(plan.small, temperature=1.0))  # a random model's own is as flat as can be


@pytest.fixture(scope="module")
def ratings(tiny_build: Path) -> CascadePlan:
    return load(Plan, tiny_build / "plan.json").cascades["similarity_cascade"]


def at(plan: CascadePlan, threshold: float) -> CascadePlan:
    assert plan.small is not None
    return replace(plan, small=replace(plan.small, threshold=threshold))


def small_probabilities(plan: CascadePlan, folder: Path, *texts: str) -> Any:
    assert plan.small is not None
    model = SmallModel(plan.small, folder, plan.task)
    tokenizer = TextTokenizer(folder / plan.small.artifact.path, plan.small.text.max_length, plan.inputs)
    return model.probabilities([tokenizer.encode([text]) for text in texts])


def large(model: str, inputs: Arrays, parameters: Parameters, request_id: str) -> Arrays:
    """The large model is sure of `order`, at level -4."""
    assert len(inputs["INPUT_IDS"]) == 1
    return {"PROBABILITIES": np.array([[0.1, 0.1, 0.8]], np.float32), "GAMMA": np.array([[-4]], np.int32)}


@contextmanager
def serving(plan: CascadePlan, folder: Path, call: Call = large) -> Iterator[CascadeService]:
    service = CascadeService(plan, folder, call)
    yield service
    service.stop()


def request(*rows: Any, **parameters: Any) -> tuple[queue.Queue[Outcome], Request]:
    outcomes: queue.Queue[Outcome] = queue.Queue()
    parts = [[row] if isinstance(row, str | bytes) else row for row in rows]
    texts = np.array([[part if isinstance(part, bytes) else part.encode() for part in row] for row in parts], object)
    return outcomes, Request({"TEXT": texts}, json.dumps(parameters), 0, "id-7", Reply(outcomes.put))


def answers(service: CascadeService, *pairs: tuple[queue.Queue[Outcome], Request]) -> list[Outcome]:
    service.handle([one for _, one in pairs])
    return [outcomes.get(timeout=10) for outcomes, _ in pairs]


def arrays(outcome: Outcome) -> dict[str, Any]:
    assert isinstance(outcome, dict), outcome
    return outcome


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


def test_the_large_model_is_asked_for_one_sample_with_the_time_that_is_left(
    plan: CascadePlan, tiny_build: Path
) -> None:
    calls: list[tuple[str, Arrays, Parameters, str]] = []

    def call(model: str, inputs: Arrays, parameters: Parameters, request_id: str) -> Arrays:
        calls.append((model, inputs, parameters, request_id))
        return large(model, inputs, parameters, request_id)

    with serving(at(plan, 1.1), tiny_build, call) as service:
        answers(service, request(HARD, slo_ms=30_000, utility=2.5))
    ((model, inputs, parameters, request_id),) = calls
    encoding = TextTokenizer(tiny_build / plan.tokenizer.path, 16).encode([HARD])
    assert (model, request_id, inputs["TASK"].tolist()) == ("bert_scheduler", "id-7", [[b"intent"]])
    assert inputs["INPUT_IDS"].tolist() == [encoding.ids.tolist()]
    assert inputs["ATTENTION_MASK"].tolist() == [[1] * len(encoding)]
    assert parameters["utility"] == "2.5"
    assert 0 < float(parameters["slo_ms"]) <= 30_000


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


def test_a_deadline_that_has_passed_before_the_large_model_is_rejected(plan: CascadePlan, tiny_build: Path) -> None:
    with serving(at(plan, 1.1), tiny_build) as service:
        late, fine = answers(service, request(HARD, slo_ms=0.0001), request(EASY))
    assert type(late) is Rejected
    assert arrays(fine)["LEVEL"].tolist() == [[1]]


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


@pytest.mark.parametrize("row", ["", "  ", b"\xff", "hello " * 20])
def test_a_bad_text_reaches_only_its_own_request(plan: CascadePlan, tiny_build: Path, row: str | bytes) -> None:
    with serving(at(plan, 0.0), tiny_build) as service:
        refused, fine = answers(service, request(EASY, row), request(EASY))
    assert type(refused) is InvalidInput
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
        monkeypatch.setattr(SmallModel, "probabilities", lambda *_: 1 / 0)
        (outcome,) = answers(service, request(EASY))
    assert type(outcome) is Internal
    assert "the small model failed: ZeroDivisionError" in str(outcome)


def test_a_regression_of_pairs_goes_straight_to_the_large_model(ratings: CascadePlan, tiny_build: Path) -> None:
    def call(model: str, inputs: Arrays, parameters: Parameters, request_id: str) -> Arrays:
        tokens = float(inputs["ATTENTION_MASK"].sum())
        return {"SCORE": np.array([[tokens]], np.float32), "GAMMA": np.array([[0]], np.int32)}

    with serving(ratings, tiny_build, call) as service:
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
