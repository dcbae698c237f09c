from __future__ import annotations

import queue
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scheduling_service import TEXT, VISION, answer, echo, error, images, send, serving

from elastriton.core.confidence import softmax
from elastriton.core.drift import Drift
from elastriton.core.errors import Internal, InvalidInput, Rejected, Unavailable
from elastriton.core.policies import POLICIES
from elastriton.core.policy import Decision, LargestBatch, Outlook
from elastriton.core.profile import TextSpec
from elastriton.core.queue import Item
from elastriton.core.scheduler import Ended
from elastriton.runtime.executor import Arrays
from elastriton.runtime.scheduling import Parameters
from elastriton.runtime.worker import Lost


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_a_request_of_several_samples_is_answered_once_with_its_labels_and_calibrated_probabilities(
    policy: str,
) -> None:
    with serving(plan=replace(VISION, policy=policy)) as service:
        outcomes = send(service, images("three", [9, 1, 2], [1, 2, 9], [3, 9, 3], [9, 0, 0], [0, 9, 0]))
        outputs = answer(outcomes)
    assert outputs["LABEL"].tolist() == [[b"a"], [b"c"], [b"b"], [b"a"], [b"b"]]
    expected = softmax(np.array([[9, 1, 2], [1, 2, 9], [3, 9, 3], [9, 0, 0], [0, 9, 0]], np.float32), 2.0)
    np.testing.assert_allclose(outputs["PROBABILITIES"], expected)
    assert outputs["GAMMA"].tolist() == [[0]] * 5
    assert outputs["GAMMA"].dtype == np.int32
    assert outcomes.empty()


def test_classes_of_other_tasks_are_cut_off_and_a_regression_is_a_score() -> None:
    with serving() as service:
        assert answer(send(service, images("two", [1, 5, 99])))["PROBABILITIES"].shape == (1, 2)
        outputs = answer(send(service, images("score", [7, 0, 0], [8, 0, 0])))
    assert outputs.keys() == {"SCORE", "GAMMA"}
    assert outputs["SCORE"].tolist() == [[7.0], [8.0]]


def test_the_executor_is_called_with_the_batch_its_tasks_the_level_and_the_request_s_id() -> None:
    calls: list[tuple[str, Arrays, Parameters, str]] = []

    def call(model: str, inputs: Arrays, parameters: Parameters, request_id: str) -> Arrays:
        calls.append((model, inputs, parameters, request_id))
        return echo(model, inputs, parameters, request_id)

    with serving(call) as service:
        answer(send(service, images("two", [1, 2, 3], [4, 5, 6])))
    ((model, inputs, parameters, request_id),) = calls
    assert (model, parameters, request_id) == ("executor", {"gamma": 0}, "id-7")
    assert inputs["TASK"].tolist() == [[b"two"], [b"two"]]
    assert inputs["PIXELS"][:, 0, 0].tolist() == [[1, 2, 3], [4, 5, 6]]


def test_the_level_is_told_per_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    class Alternating:
        turn = 0

        def arrived(self, item: Item) -> None:
            pass

        def decide(self, waiting: Sequence[Item], now_s: float, outlook: Outlook) -> Decision:
            self.turn += 1
            return Decision((waiting[0],), gamma=-2 if self.turn % 2 else 0)

    monkeypatch.setitem(POLICIES, "alternating", Alternating)
    with serving(plan=replace(VISION, policy="alternating")) as service:
        outputs = answer(send(service, images("two", [1, 2, 0], [3, 1, 0], [1, 2, 0])))
    assert outputs["GAMMA"].tolist() == [[-2], [0], [-2]]
    assert outputs["LABEL"].tolist() == [[b"yes"], [b"no"], [b"yes"]]


@pytest.mark.parametrize("names", [[b"two", b"three"], [b"four", b"four"], [b"", b""], [b"\xff", b"\xff"]])
def test_mixed_or_unknown_tasks_are_refused(names: list[bytes]) -> None:
    inputs = images("two", [1, 2, 3], [1, 2, 3])
    inputs["TASK"] = np.array([[name] for name in names], dtype=object)
    with serving() as service:
        refusal = error(send(service, inputs))
    assert type(refusal) is InvalidInput
    assert "name one task per request, of score, three, two" in str(refusal)


def test_parameters_are_read_per_request() -> None:
    with serving() as service:
        refusal = error(send(service, images("two", [1, 2, 3]), slo_ms="soon"))
        assert type(refusal) is InvalidInput
        late = error(send(service, images("two", [1, 2, 3]), slo_ms=0.5))
        assert type(late) is Rejected
        assert "the fastest level needs 1.0 ms" in str(late)
        answer(send(service, images("two", [1, 2, 3]), slo_ms=30_000, utility="2"))


def test_background_work_is_marked_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    marks: list[bool] = []

    class Noting(LargestBatch):
        def decide(self, waiting: Sequence[Item], now_s: float, outlook: Outlook) -> Decision:
            marks.extend(item.background for item in waiting)
            return super().decide(waiting, now_s, outlook)

    monkeypatch.setitem(POLICIES, "noting", Noting)
    with serving(plan=replace(VISION, policy="noting")) as service:
        answer(send(service, images("two", [1, 2, 3]), background=True))
        answer(send(service, images("two", [1, 2, 3])))
    assert marks == [True, False]


def test_a_deadline_counts_from_sending_where_the_request_says_when(monkeypatch: pytest.MonkeyPatch) -> None:
    left_s: list[float] = []

    class Noting:
        def arrived(self, item: Item) -> None:
            left_s.append(item.deadline_s - item.arrival_s)

        def decide(self, waiting: Sequence[Item], now_s: float, outlook: Outlook) -> Decision:
            return Decision(tuple(waiting))

    monkeypatch.setitem(POLICIES, "noting", Noting)
    lost: queue.Queue[tuple[str, int]] = queue.Queue()

    class Listening:
        def batch(self, ended: Ended, drift: Drift) -> None: ...

        def lost(self, items: Sequence[Item], outcome: Lost, waiting: int) -> None:
            lost.put((outcome, len(items)))

    now_ms = time.time() * 1000.0
    with serving(plan=replace(VISION, policy="noting"), observer=Listening()) as service:
        for sent_ms in (now_ms - 20_000.0, now_ms + 20_000.0):
            answer(send(service, images("two", [1, 2, 3]), sent_unix_ms=round(sent_ms)))
        late = error(send(service, images("two", [1, 2, 3]), slo_ms=100, sent_unix_ms=round(now_ms - 5_000.0)))
    assert 30.0 < left_s[0] < 40.001, "the time of sending is rounded to a ms"
    assert left_s[1:] == [60.0]
    assert type(late) is Rejected
    assert re.search(r"cannot be met: .* by it the request has been under way for \d{4,5}\.\d of its 100 ms", str(late))
    assert lost.get(timeout=10) == ("rejected", 1)


def test_too_many_samples_for_the_queue_are_rejected_together() -> None:
    with serving() as service:
        assert type(error(send(service, images("two", *[[1, 2, 3]] * 17)))) is Rejected


@pytest.mark.parametrize(
    "outputs",
    [
        {},
        {"OTHER": np.zeros((2, 3), np.float32)},
        {"LOGITS": np.zeros((1, 3), np.float32)},
        {"LOGITS": np.zeros((3, 3), np.float32)},
        {"LOGITS": np.zeros(2, np.float32)},
        {"LOGITS": np.full((2, 3), np.nan, np.float32)},
        {"LOGITS": np.full((2, 3), -np.inf, np.float32)},
    ],
)
def test_missing_or_garbled_outputs_of_the_executor_are_an_internal_error(outputs: Arrays) -> None:
    with serving(lambda *_: outputs) as service:
        assert type(error(send(service, images("three", [1, 2, 3], [1, 2, 3])))) is Internal


def test_an_error_of_the_executor_is_the_answer() -> None:
    def call(model: str, inputs: Arrays, parameters: Parameters, request_id: str) -> Arrays:
        raise Unavailable("executor is gone")

    with serving(call) as service:
        assert str(error(send(service, images("two", [1, 2, 3])))) == "executor is gone"


def test_missing_inputs_are_answered_too() -> None:
    with serving() as service:
        assert type(error(send(service, {}))) is Internal


def test_stop_answers_what_waits_and_later_requests() -> None:
    running, go = threading.Event(), threading.Event()

    def call(model: str, inputs: Arrays, parameters: Parameters, request_id: str) -> Arrays:
        running.set()
        assert go.wait(timeout=20)
        return echo(model, inputs, parameters, request_id)

    with serving(call) as service:
        first = send(service, images("two", [1, 2, 3]))
        assert running.wait(timeout=10)
        waiting = send(service, images("two", [1, 2, 3]))
        stopping = threading.Thread(target=service.stop)
        stopping.start()
        assert type(error(waiting)) is Unavailable
        go.set()
        answer(first)
        stopping.join(timeout=10)
        assert type(error(send(service, images("two", [1, 2, 3])))) is Unavailable


def texts(name: str, *rows: Sequence[int], longest: int = 8) -> Arrays:
    ids = np.array([[*row, *[0] * (longest - len(row))] for row in rows], np.int64)
    mask = np.array([[1] * len(row) + [0] * (longest - len(row)) for row in rows], np.int64)
    task_names = np.array([[name.encode()]] * len(rows), dtype=object)
    return {"TASK": task_names, "INPUT_IDS": ids, "ATTENTION_MASK": mask, "TOKEN_TYPE_IDS": np.zeros_like(ids)}


def test_the_padding_of_a_text_is_stripped_and_each_batch_padded_anew() -> None:
    shapes: list[tuple[int, ...]] = []

    def call(model: str, inputs: Arrays, parameters: Parameters, request_id: str) -> Arrays:
        shapes.append(inputs["INPUT_IDS"].shape)
        assert inputs["ATTENTION_MASK"].sum() == np.count_nonzero(inputs["INPUT_IDS"])
        return echo(model, inputs, parameters, request_id)

    with serving(call, TEXT) as service:
        outputs = answer(send(service, texts("three", [1, 2, 9, 4], [9, 1, 1])))
    assert shapes == [(2, 4)]
    assert outputs["LABEL"].tolist() == [[b"c"], [b"a"]]


@pytest.mark.parametrize(("name", "wrong"), [("INPUT_IDS", 10), ("INPUT_IDS", -1), ("TOKEN_TYPE_IDS", 2)])
def test_ids_that_the_model_has_no_row_for_are_refused(name: str, wrong: int) -> None:
    """The executor would fail for the whole batch; what is padding is nobody's id."""
    inputs = texts("three", [1, 2, 9], [9, 1])
    inputs[name][1, 2:] = wrong
    with serving(plan=replace(TEXT, text=TextSpec(8, vocabulary=10, segments=2))) as service:
        answer(send(service, inputs))
        inputs[name][1, 1] = wrong
        refusal = error(send(service, inputs))
    assert type(refusal) is InvalidInput
    assert f"{name} has {wrong}; send ids from 0 to {1 if 'TYPE' in name else 9}" in str(refusal)


@pytest.mark.parametrize("mask", [[0, 1, 1], [1, 0, 1], [-1, 0, 0], [2, 0, 0]])
def test_a_mask_of_anything_but_a_text_and_then_padding_is_refused(mask: list[int]) -> None:
    """Other tokens than those it marks would be read."""
    inputs = texts("three", [1, 2, 9])
    inputs["ATTENTION_MASK"][0, :3] = mask
    with serving(plan=TEXT) as service:
        refusal = error(send(service, inputs))
    assert type(refusal) is InvalidInput
    assert "ATTENTION_MASK must be ones, and then zeros" in str(refusal)


@pytest.mark.parametrize("name", ["INPUT_IDS", "ATTENTION_MASK", "TOKEN_TYPE_IDS"])
def test_tensors_of_other_shapes_are_refused_and_cost_no_neighbour_its_answer(name: str) -> None:
    whole = texts("three", [1, 2, 9])
    with serving(plan=TEXT) as service:
        neighbour, refusal = send(service, whole), error(send(service, {**whole, name: whole[name][:, :2]}))
        answer(neighbour)
    assert type(refusal) is InvalidInput
    assert "[1, 2]" in str(refusal)
    assert "send them of one shape" in str(refusal)


@pytest.mark.parametrize("row", [[], [1] * 9])
def test_texts_without_tokens_or_with_too_many_are_refused(row: list[int]) -> None:
    with serving(plan=TEXT) as service:
        refusal = error(send(service, texts("three", row, longest=9)))
    assert type(refusal) is InvalidInput
    assert f"INPUT_IDS has {len(row)} tokens; between 1 and 8" in str(refusal)
