"""Each backends/*/model.py as the stub imports it, against a stand-in for pb_utils: the adapters and their errors."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from elastriton.core.errors import Internal


def names(*rows: bytes) -> Any:
    return np.array([[row] for row in rows], dtype=object)


def wait_for(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < deadline_s, "nothing came within 30 s"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("backend", "model"),
    [
        ("decode_image", "colour_decode"),
        ("elastic", "vit_executor"),
        ("elastic_scheduler", "vit_scheduler"),
        ("cascade", "intent_cascade"),
    ],
)
def test_what_a_backend_loads_is_left_out_of_garbage_collection(
    backend: str, model: str, load_backend: Any, args: Any
) -> None:
    loaded = load_backend(backend)
    before = gc.get_freeze_count()
    loaded.initialize(args(model))
    assert gc.get_freeze_count() > before + 1000
    assert loaded not in gc.get_objects()


def test_decode_image(
    load_backend: Any, args: Any, stub_request: Any, make_jpeg: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_backend("decode_image")
    model.initialize(args("colour_decode"))
    counted: list[int] = []
    monkeypatch.setattr(model._metrics._outcomes["colour", "rejected"].metric, "increment", counted.append)
    good, bad = stub_request({"IMAGE": names(make_jpeg("red"))}), stub_request({"IMAGE": names(b"nothing")})
    late = stub_request({"IMAGE": names(b"one", b"two")}, {"slo_ms": 5, "sent_unix_ms": 1})
    answers = model.execute([good, bad, good, late, stub_request({})])
    model.finalize()
    assert answers[0].tensors["PIXELS"].shape == (1, 32, 32, 3)
    assert answers[0].tensors["TASK"].tolist() == [[b"colour"]]
    assert answers[1].failure.code == "INVALID_ARG"
    assert str(answers[1].failure).startswith("[invalid] IMAGE cannot be decoded")
    assert not answers[2].has_error()
    assert answers[3].failure.code == "UNAVAILABLE"
    assert str(answers[3].failure).startswith("[rejected] the deadline cannot be met: 0.0 ms are left")
    assert counted == [2]
    assert answers[4].failure.code == "INTERNAL"


def test_elastic(load_backend: Any, args: Any, stub_request: Any) -> None:
    model = load_backend("elastic")
    model.initialize(args("vit_executor"))
    tensors = {"PIXELS": np.zeros((2, 32, 32, 3), np.uint8), "TASK": names(b"colour", b"warm")}
    plain, merged, unknown, broken = model.execute(
        [
            stub_request(tensors),
            stub_request(tensors, {"gamma": min(model._executor.levels)}),
            stub_request(tensors, {"gamma": 77}),
            stub_request({"TASK": names(b"colour")}),
        ]
    )
    assert plain.tensors["LOGITS"].shape == merged.tensors["LOGITS"].shape == (2, 3)
    assert np.isneginf(plain.tensors["LOGITS"][1, 2]), "the second task has two classes"
    assert unknown.failure.code == "INVALID_ARG"
    assert broken.failure.code == "INTERNAL"


def test_elastic_scheduler(
    load_backend: Any, args: Any, stub_request: Any, stub_response: Any, stub_tensor: Any
) -> None:
    calls: list[dict[str, Any]] = []

    def executor(**call: Any) -> Any:
        calls.append(call)
        rows = len(call["inputs"][0].as_numpy())
        return stub_response([stub_tensor("LOGITS", np.tile(np.array([0, 3, 1], np.float32), (rows, 1)))])

    model = load_backend("elastic_scheduler", executor)
    model.initialize(args("vit_scheduler"))
    request = stub_request({"PIXELS": np.zeros((2, 32, 32, 3), np.uint8), "TASK": names(b"colour", b"colour")})
    assert model.execute([request]) is None
    wait_for(lambda: request.sent)
    model.finalize()
    [answer] = request.sent
    assert answer.tensors["LABEL"].shape == (2, 1)
    assert answer.tensors["PROBABILITIES"].argmax(-1).tolist() == [1, 1]
    assert calls[0]["model_name"] == "vit_executor"
    assert calls[0]["parameters"] == {"gamma": int(answer.tensors["GAMMA"][0, 0])}


def test_only_the_outputs_that_are_asked_for_are_sent(
    load_backend: Any, args: Any, stub_request: Any, stub_response: Any, stub_tensor: Any
) -> None:
    """Triton's stub frees the others without holding the GIL, and dies of it now and then."""

    def executor(**call: Any) -> Any:
        return stub_response([stub_tensor("LOGITS", np.zeros((len(call["inputs"][0].as_numpy()), 3), np.float32))])

    model = load_backend("elastic_scheduler", executor)
    model.initialize(args("vit_scheduler"))
    tensors = {"PIXELS": np.zeros((1, 32, 32, 3), np.uint8), "TASK": names(b"colour")}
    request = stub_request(tensors, wanted={"PROBABILITIES", "GAMMA"})
    model.execute([request])
    wait_for(lambda: request.sent)
    model.finalize()
    assert request.sent[0].tensors.keys() == {"PROBABILITIES", "GAMMA"}


def test_an_answer_that_triton_does_not_take_is_an_error(
    load_backend: Any, args: Any, stub_request: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_backend("cascade")
    model.initialize(args("intent_cascade"))
    from elastriton.runtime import triton

    whole = triton.response
    monkeypatch.setattr(triton, "response", lambda outcome: whole(outcome) if isinstance(outcome, Internal) else 1 / 0)
    request = stub_request({"TEXT": names(b"hello there")})
    model.execute([request])
    wait_for(lambda: request.sent)
    model.finalize()
    assert str(request.sent[0].failure).startswith("[internal] the answer cannot be written: ZeroDivisionError")


def test_a_log_that_triton_does_not_take_costs_nothing(load_backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    load_backend("elastic_scheduler")
    from elastriton.runtime import triton

    monkeypatch.setattr("triton_python_backend_utils.Logger", None)
    handler = triton._TritonLog()
    reported: list[logging.LogRecord] = []
    monkeypatch.setattr(handler, "handleError", reported.append)
    record = logging.LogRecord("elastriton", logging.ERROR, "", 0, "something is stuck", None, None)
    handler.handle(record)
    assert reported == [record]


@pytest.mark.parametrize(
    ("message", "code", "text"),
    [
        ("[invalid] level 3 is unknown", "INVALID_ARG", "[invalid] level 3 is unknown"),
        ("Model vit_executor is not ready", "UNAVAILABLE", "[unavailable] vit_executor failed"),
        ("something odd", "INTERNAL", "[internal] vit_executor failed: something odd"),
    ],
)
def test_a_callees_error_reaches_the_client(
    load_backend: Any, args: Any, stub_request: Any, stub_response: Any, message: str, code: str, text: str
) -> None:
    def executor(**call: Any) -> Any:
        import triton_python_backend_utils as utils

        return stub_response([], utils.TritonError(message))

    model = load_backend("elastic_scheduler", executor)
    model.initialize(args("vit_scheduler"))
    request = stub_request({"PIXELS": np.zeros((1, 32, 32, 3), np.uint8), "TASK": names(b"colour")})
    model.execute([request])
    wait_for(lambda: request.sent)
    model.finalize()
    assert request.sent[0].failure.code == code
    assert str(request.sent[0].failure).startswith(text)


def test_cascade(load_backend: Any, args: Any, stub_request: Any) -> None:
    model = load_backend("cascade")
    model.initialize(args("intent_cascade"))
    good, empty = stub_request({"TEXT": names(b"hello there", b"bye")}), stub_request({"TEXT": names(b"")})
    assert model.execute([good, empty]) is None
    wait_for(lambda: good.sent and empty.sent)
    model.finalize()
    assert good.sent[0].tensors["LEVEL"].tolist() == [[0], [0]]
    assert good.sent[0].tensors["PROBABILITIES"].shape == (2, 3)
    assert empty.sent[0].failure.code == "INVALID_ARG"


def test_a_cascade_that_is_loaded_again_starts_without_an_alarm(
    load_backend: Any, args: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_backend("cascade")
    import triton_python_backend_utils as utils

    gauges: list[float] = []

    def metric(family: Any, labels: dict[str, str]) -> Any:
        return SimpleNamespace(set=gauges.append, increment=lambda value: None)

    monkeypatch.setattr(utils.MetricFamily, "Metric", metric)
    model.initialize(args("intent_cascade"))
    assert gauges == [0.0]
    model._service._observer.audited(agrees=False, alarm=True)
    model.finalize()
    model.initialize(args("intent_cascade"))
    assert gauges == [0.0, 1.0, 0.0]
