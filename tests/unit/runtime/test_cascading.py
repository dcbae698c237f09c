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

from elastriton.core.audit import AuditPlan
from elastriton.core.errors import Internal, InvalidInput, Rejected, RequestError, Unavailable
from elastriton.core.plan import CascadePlan, Plan, SmallPlan
from elastriton.core.profile import Artifact, TextSpec
from elastriton.core.pruning import Pruning
from elastriton.core.records import load
from elastriton.generator.prepare import prepare_small
from elastriton.runtime import cascading
from elastriton.runtime.cascading import CascadeService
from elastriton.runtime.executor import Arrays
from elastriton.runtime.reply import Reply, Request
from elastriton.runtime.scheduling import Call, Parameters
from elastriton.runtime.small import Opinion, SmallModel
from elastriton.runtime.texts import TextTokenizer

Outcome = dict[str, Any] | RequestError
EASY, HARD, OTHER = "hello there good morning", "buy tea", "two please bye you see hi"


@pytest.fixture(scope="module")
def plan(tiny_build: Path) -> CascadePlan:
    plan = load(Plan, tiny_build / "plan.json").cascades["intent_cascade"]
    return replace(plan, small=(small_plan(tiny_build, "intent"),), small_weight=0.0, pruning=None)


@pytest.fixture(scope="module")
def ratings(tiny_build: Path) -> CascadePlan:
    plan = load(Plan, tiny_build / "plan.json").cascades["similarity_cascade"]
    small = (small_plan(tiny_build, "similarity"),)
    return replace(plan, small=small, score="uncertainty", small_weight=0.0, pruning=None)


def small_plan(folder: Path, task: str) -> SmallPlan:
    """The task's small model; a random one's own temperature is as flat as can be, so it is 1 here."""
    artifact = Artifact(f"{task}_small0", "")
    return SmallPlan(artifact, temperature=1.0, threshold=0.0, max_batch=8, text=TextSpec(16))


def at(plan: CascadePlan, *thresholds: float) -> CascadePlan:
    """The plan with as many small models as thresholds: the same one, ever sharper, where it has but one."""
    small = [replace(plan.small[0], threshold=t, temperature=0.5**i) for i, t in enumerate(thresholds)]
    return replace(plan, small=tuple(small))


def opinions(plan: CascadePlan, folder: Path, *rows: Any, level: int = 0) -> list[Opinion]:
    model = SmallModel(plan, level, folder)
    return model.opinions([model.preparation.read((row,) if isinstance(row, str) else row) for row in rows])


def small_probabilities(plan: CascadePlan, folder: Path, *texts: str) -> Any:
    return np.stack([opinion.values for opinion in opinions(plan, folder, *texts)])


def large(model: str, inputs: Arrays, parameters: Parameters, request_id: str) -> Arrays:
    """The large model is sure of `order`, at level -4."""
    assert len(inputs["INPUT_IDS"]) == 1
    return {"PROBABILITIES": np.array([[0.1, 0.1, 0.8]], np.float32), "GAMMA": np.array([[-4]], np.int32)}


def reject(model: str, inputs: Arrays, parameters: Parameters, request_id: str) -> Arrays:
    raise Rejected("the deadline cannot be met")


class Counts:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, bool]] = []
        self.words: list[tuple[int, int]] = []
        self.audits: queue.Queue[tuple[bool, bool]] = queue.Queue()
        self._told = threading.Condition()

    def answered(self, level: int, fallback: bool) -> None:
        with self._told:
            self.answers.append((level, fallback))
            self._told.notify_all()

    def shortened(self, words: int, kept: int) -> None:
        self.words.append((words, kept))

    def audited(self, agrees: bool, alarm: bool) -> None:
        self.audits.put((agrees, alarm))

    def wait_for_answers(self, n: int) -> None:
        with self._told:
            assert self._told.wait_for(lambda: len(self.answers) >= n, timeout=10)


@pytest.fixture
def counts() -> Counts:
    return Counts()


@contextmanager
def serving(
    plan: CascadePlan, folder: Path, call: Call = large, observer: Counts | None = None
) -> Iterator[CascadeService]:
    service = CascadeService(plan, folder, call, observer)
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
    assert plan.tokenizer is not None
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


def test_a_deadline_that_leaves_no_time_for_the_large_model_gets_the_small_one_s_answer(
    plan: CascadePlan, tiny_build: Path, counts: Counts
) -> None:
    expected = small_probabilities(plan, tiny_build, HARD)
    with serving(at(plan, 1.1), tiny_build, observer=counts) as service:
        late, fine = map(arrays, answers(service, request(HARD, slo_ms=0.0001), request(EASY)))
        counts.wait_for_answers(2)
    np.testing.assert_allclose(late["PROBABILITIES"], expected, atol=1e-5)
    assert (late["LEVEL"].tolist(), late["GAMMA"].tolist(), late["FALLBACK"].tolist()) == ([[0]], [[0]], [[True]])
    assert (fine["LEVEL"].tolist(), fine["FALLBACK"].tolist()) == ([[1]], [[False]])
    assert fine["FALLBACK"].dtype == np.bool_
    assert sorted(counts.answers) == [(0, True), (1, False)]


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
        counts.wait_for_answers(3)
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
    image = prepare_small("colour", 0, str(tiny_vit), "vision", labels, tiny_vit, folder).image
    small = SmallPlan(Artifact("colour_small0", ""), 1.0, 0.0, max_batch=4, image=image)
    plan = CascadePlan("colour", "vision", "classification", labels, 1, "vit_scheduler", 5000.0, 8, image=image)
    return replace(plan, small=(small,)), folder


def images(*rows: bytes, **parameters: Any) -> tuple[queue.Queue[Outcome], Request]:
    outcomes: queue.Queue[Outcome] = queue.Queue()
    encoded = np.array([[row] for row in rows], object)
    return outcomes, Request({"IMAGE": encoded}, json.dumps(parameters), 0, "", Reply(outcomes.put))


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
        outcome, bad = answers(service, images(*pictures), images(b"no picture"))
        rows = arrays(outcome)
    for row, opinion in enumerate(said):
        early = opinion.confidence == first
        assert rows["LEVEL"][row, 0] == (0 if early else 1)
        np.testing.assert_allclose(rows["PROBABILITIES"][row], opinion.values if early else [0.1, 0.1, 0.8], atol=1e-5)
    assert sum(level == 0 for (level,) in rows["LEVEL"].tolist()) == 1
    assert type(bad) is InvalidInput
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
