"""What `classify` sends and returns, through a fake transport."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from elastriton.client import Answer, Client, InvalidInputError, RejectedError, Request, ServerError
from elastriton.client.testing import FakeTransport
from elastriton.client.transport import is_local

Classify = Callable[..., list[Any]]
RIVER = {"LABEL": ["River"], "PROBABILITIES": [0.25, 0.75], "GAMMA": [-4]}


def river(request: Request) -> Mapping[str, Any]:
    return RIVER


def echo(request: Request) -> Mapping[str, Any]:
    return {**RIVER, "LABEL": request.values[0]}


def test_an_image_travels_as_one_request_and_its_answer_is_read(classify: Classify) -> None:
    transport = FakeTransport(river)
    [answer] = classify(transport, "eurosat", images=[b"\xff\xd8 jpeg"], slo_ms=50, utility=2)
    assert transport.requests == [Request("eurosat", "IMAGE", (b"\xff\xd8 jpeg",), {"slo_ms": 50.0, "utility": 2.0})]
    assert all(type(value) is float for value in transport.requests[0].parameters.values())
    assert (answer.task, answer.label, answer.probability, answer.gamma) == ("eurosat", "River", 0.75, -4)
    assert answer.probabilities.dtype == np.float32
    assert answer.probabilities.tolist() == [0.25, 0.75]
    assert answer.level is None
    assert answer.score is None


def test_texts_and_pairs_travel_as_utf8_without_parameters_that_were_not_given(classify: Classify) -> None:
    transport = FakeTransport(lambda request: {**RIVER, "LEVEL": 1})
    answers = classify(transport, "qnli", texts=["straße", ("question", "sentence")])
    assert transport.requests == [
        Request("qnli", "TEXT", ("straße".encode(),), {}),
        Request("qnli", "TEXT", (b"question", b"sentence"), {}),
    ]
    assert [answer.level for answer in answers] == [1, 1]


@pytest.mark.parametrize("same_clock", [True, False, None])
def test_a_request_says_when_it_was_sent_if_clocks_are_known_to_agree(same_clock: bool | None) -> None:
    transport = FakeTransport(river)
    before_ms = time.time() * 1000.0
    with Client(transport, same_clock=same_clock) as client:
        client.classify("eurosat", images=[b"\xff\xd8 jpeg"], slo_ms=50)
    sent_ms = transport.requests[0].parameters.get("sent_unix_ms")
    if same_clock:
        assert type(sent_ms) is int
        assert before_ms - 1.0 <= sent_ms <= time.time() * 1000.0 + 1.0
    else:
        assert sent_ms is None


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("grpc://127.0.0.1:8001", True),
        ("http://localhost:8000", True),
        ("grpc://[::1]:8001", True),
        ("grpc://127.8.8.8:1", True),
        ("grpc://10.0.0.1:8001", False),
        ("http://localhost.example.org:8000", False),
        ("http://triton:8000", False),
    ],
)
def test_a_loopback_address_is_this_machine(url: str, local: bool) -> None:
    assert is_local(url) is local


def test_a_regression_has_a_score_and_no_label(classify: Classify) -> None:
    transport = FakeTransport(lambda request: {"SCORE": [3.5], "LEVEL": [0], "GAMMA": [0]})
    [answer] = classify(transport, "stsb", texts=[("a", "b")])
    assert (answer.score, answer.label, answer.probabilities, answer.probability) == (3.5, None, None, None)
    assert answer.level == 0


def test_answers_stand_in_the_order_of_the_items_whichever_is_first(classify: Classify) -> None:
    async def slower_first(request: Request) -> Mapping[str, Any]:
        await asyncio.sleep(0.02 if request.values == (b"0",) else 0.0)
        return echo(request)

    answers = classify(FakeTransport(slower_first), "clinc150", texts=[str(i) for i in range(20)])
    assert [answer.label for answer in answers] == [str(i) for i in range(20)]


def test_the_latency_is_in_milliseconds_and_leaves_out_the_wait_for_a_slot(classify: Classify) -> None:
    async def handler(request: Request) -> Mapping[str, Any]:
        await asyncio.sleep(0.03)
        return RIVER

    answers = classify(FakeTransport(handler), "eurosat", images=[b"x"] * 5, options={"max_in_flight": 1})
    assert all(29 < answer.latency_ms < 140 for answer in answers)


def test_the_fake_transport_adds_the_batch_dimension() -> None:
    outputs = asyncio.run(FakeTransport(river).infer(Request("eurosat", "IMAGE", (b"x",)), 1.0))
    assert {name: array.shape for name, array in outputs.items()} == {
        "LABEL": (1, 1),
        "PROBABILITIES": (1, 2),
        "GAMMA": (1, 1),
    }


def test_no_items_no_answers(classify: Classify) -> None:
    assert classify(FakeTransport(river), "eurosat", images=[]) == []


def picky(request: Request) -> Mapping[str, Any]:
    if request.values == (b"late",):
        raise RejectedError("the deadline cannot be met")
    return echo(request)


def test_with_return_errors_each_error_stands_in_its_items_place(classify: Classify) -> None:
    transport = FakeTransport(picky)
    texts = ["good", "late", 3, "fine"]
    answers = classify(transport, "clinc150", texts=texts, return_errors=True)
    assert [type(answer) for answer in answers] == [Answer, RejectedError, InvalidInputError, Answer]
    assert (answers[1].task, answers[1].index, answers[1].message) == ("clinc150", 1, "the deadline cannot be met")
    assert str(answers[1]) == "task 'clinc150', item 1: the deadline cannot be met"
    assert answers[2].index == 2


def test_without_it_the_first_error_is_raised_after_every_request_has_ended(classify: Classify) -> None:
    finished = []

    async def handler(request: Request) -> Mapping[str, Any]:
        await asyncio.sleep(0.02 if request.values != (b"late",) else 0.0)
        outputs = picky(request)
        finished.append(request.values)
        return outputs

    with pytest.raises(RejectedError, match="deadline") as caught:
        classify(FakeTransport(handler), "clinc150", texts=["a", "late", "b", "late"])
    assert caught.value.index == 1
    assert finished == [(b"a",), (b"b",)]


def test_a_mistake_in_a_handler_is_not_dressed_up_as_a_server_error(classify: Classify) -> None:
    with pytest.raises(ZeroDivisionError):
        classify(FakeTransport(lambda request: {"GAMMA": 1 // 0}), "eurosat", images=[b"x"], return_errors=True)


@pytest.mark.parametrize("name", ["LABEL", "PROBABILITIES", "GAMMA"])
@pytest.mark.parametrize("how", ["missing", "empty"])
def test_an_answer_without_its_tensors_is_a_server_error_that_names_them(
    classify: Classify, name: str, how: str
) -> None:
    outputs = {key: value for key, value in RIVER.items() if key != name}
    outputs |= {name: []} if how == "empty" else {}
    with pytest.raises(ServerError, match=f"the answer lacks {name}; it has"):
        classify(FakeTransport(lambda request: outputs), "eurosat", images=[b"x"])


def test_at_most_max_in_flight_requests_are_under_way(classify: Classify) -> None:
    under_way, peak = 0, 0

    async def handler(request: Request) -> Mapping[str, Any]:
        nonlocal under_way, peak
        under_way += 1
        peak = max(peak, under_way)
        await asyncio.sleep(0.001)
        under_way -= 1
        return RIVER

    classify(FakeTransport(handler), "clinc150", texts=["x"] * 40, options={"max_in_flight": 7})
    assert peak == 7


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        ({}, "either images="),
        ({"images": [b"x"], "texts": ["x"]}, "not both"),
        ({"texts": "play some jazz"}, r"write texts=\[item\]"),
        ({"images": b"jpeg"}, r"write images=\[item\]"),
        ({"texts": {"a", "b"}}, "not set"),
        ({"texts": ["x"], "slo_ms": 0}, "slo_ms=0 is out of bounds"),
        ({"texts": ["x"], "slo_ms": float("nan")}, "out of bounds"),
        ({"texts": ["x"], "utility": -1.0}, "utility=-1 is out of bounds"),
        ({"texts": ["x"], "slo_ms": "soon"}, "slo_ms='soon' is not a number"),
        ({"texts": ["x"], "slo_ms": True}, "slo_ms=True is not a number"),
        ({"texts": ["x"], "utility": [1.0]}, r"utility=\[1.0\] is not a number"),
        ({"texts": ["x"], "utility": 10**400}, "utility=1000.*000 is not a number"),
    ],
)
def test_arguments_that_are_wrong_as_a_whole_raise_before_anything_is_sent(
    classify: Classify, ask: dict[str, Any], words: str
) -> None:
    transport = FakeTransport(river)
    with pytest.raises(InvalidInputError, match=words):
        classify(transport, "eurosat", return_errors=True, **ask)
    assert transport.requests == []


@pytest.mark.parametrize("task", ["", "eurosat/versions/1"])
def test_a_task_name_that_is_none_is_refused(classify: Classify, task: str) -> None:
    with pytest.raises(InvalidInputError, match="no task name"):
        classify(FakeTransport(river), task, texts=["x"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"timeout_s": 0}, "timeout_s=0; it must be above 0"),
        ({"timeout_s": float("nan")}, "timeout_s=nan"),
        ({"timeout_s": float("inf")}, "timeout_s=inf; it must be above 0 and at most 86400, a day"),
        ({"max_in_flight": 0}, "max_in_flight=0; it must be at least 1"),
    ],
)
def test_limits_must_make_sense(classify: Classify, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        classify(FakeTransport(river), "eurosat", texts=["x"], options=options)
