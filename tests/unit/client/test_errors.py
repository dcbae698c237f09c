"""What each failure means to a caller. The messages are those of tritonserver 2.51, tritonclient 2.73 and a proxy."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from tritonclient.utils import InferenceServerException

from elastriton.client import (
    ClientError,
    InvalidInputError,
    RejectedError,
    Request,
    RequestTimeoutError,
    ServerError,
    UnavailableError,
    UnknownTaskError,
)
from elastriton.client.testing import FakeTransport

Classify = Callable[..., list[Any]]
GRPC = "StatusCode."
GONE = "Request for unknown model: 'eurosat' has no available versions"
UNKNOWN = "Request for unknown model: 'eurosat' is not found"
STUB = "Stub process 'eurosat_0_0' is not healthy."
TRACEBACK = "Failed to process the request(s) for model 'x', message: TritonModelException: [rejected] too late"
STOPPING = "Server is stopping, scheduler for model has stopped accepting new inference requests"

TRITON = [
    ("[invalid] no image", f"{GRPC}INVALID_ARGUMENT", InvalidInputError, "no image"),
    ("in ensemble 'eurosat', [rejected] too late", f"{GRPC}UNAVAILABLE", RejectedError, "too late"),
    ("in ensemble 'eurosat', [rejected] too late", "503", RejectedError, "too late"),
    ("in ensemble 'eurosat', [unavailable] draining", f"{GRPC}INTERNAL", UnavailableError, "draining"),
    ("[internal] no weights", "500", ServerError, "no weights"),
    (TRACEBACK, f"{GRPC}INTERNAL", RejectedError, "too late"),
    (GONE, f"{GRPC}NOT_FOUND", UnavailableError, GONE),
    (GONE, "404", UnavailableError, GONE),
    (UNKNOWN, f"{GRPC}NOT_FOUND", UnknownTaskError, UNKNOWN),
    (UNKNOWN, "404", UnknownTaskError, UNKNOWN),
    (f"in ensemble 'eurosat', {UNKNOWN}", "404", UnavailableError, UNKNOWN),
    (STUB, f"{GRPC}INTERNAL", UnavailableError, STUB),
    (f"in ensemble 'eurosat', {STUB}", "500", UnavailableError, STUB),
    (STOPPING, f"{GRPC}UNAVAILABLE", UnavailableError, STOPPING),
    ("Server not ready", "400", UnavailableError, "Server not ready"),
    ("Model 'x' is not ready", "500", UnavailableError, "Model 'x' is not ready"),
    ("[request id: <id_unknown>] unexpected shape", "400", InvalidInputError, "unexpected shape"),
    ("unexpected shape", f"{GRPC}INVALID_ARGUMENT", InvalidInputError, "unexpected shape"),
    ("body too large", "413", InvalidInputError, "body too large"),
    ("queue", "429", RejectedError, "queue"),
    ("Connection refused", f"{GRPC}UNAVAILABLE", UnavailableError, "Connection refused"),
    ("an exception occurred in the client while decoding", "502", UnavailableError, "an exception occurred"),
    ("Deadline Exceeded", f"{GRPC}DEADLINE_EXCEEDED", RequestTimeoutError, "Deadline Exceeded"),
    ("gateway timeout", "504", RequestTimeoutError, "gateway timeout"),
    ("ValueError: boom", f"{GRPC}INTERNAL", ServerError, "ValueError: boom"),
    ("boom", "500", ServerError, "boom"),
    ("boom", f"{GRPC}UNKNOWN", ServerError, "boom"),
    ("boom", None, ServerError, "boom"),
    (None, f"{GRPC}INTERNAL", ServerError, "[StatusCode.INTERNAL]"),
]
OTHER: list[tuple[Exception, type[ClientError], str]] = [
    (TimeoutError(), RequestTimeoutError, "no answer within the client's timeout"),
    (asyncio.TimeoutError(), RequestTimeoutError, "no answer within the client's timeout"),
    (ConnectionRefusedError("refused"), UnavailableError, "cannot talk to the server: refused"),
    (ConnectionResetError("reset"), UnavailableError, "cannot talk to the server: reset"),
    (OSError("no route to host"), UnavailableError, "cannot talk to the server: no route"),
    (RejectedError("mine"), RejectedError, "mine"),
]


def fails(failure: Exception) -> FakeTransport:
    def handler(request: Request) -> Mapping[str, Any]:
        raise failure

    return FakeTransport(handler)


@pytest.mark.parametrize(("message", "status", "kind", "words"), TRITON)
def test_what_triton_says(
    classify: Classify, message: str | None, status: str | None, kind: type[ClientError], words: str
) -> None:
    check(classify, InferenceServerException(message, status=status), kind, words)


@pytest.mark.parametrize(("failure", "kind", "words"), OTHER, ids=lambda value: getattr(value, "__name__", None))
def test_what_a_connection_says(classify: Classify, failure: Exception, kind: type[ClientError], words: str) -> None:
    check(classify, failure, kind, words)


def check(classify: Classify, failure: Exception, kind: type[ClientError], words: str) -> None:
    [error] = classify(fails(failure), "eurosat", images=[b"x"], return_errors=True)
    assert type(error) is kind
    assert error.message.startswith(words)
    assert str(error) == f"task 'eurosat', item 0: {error.message}"
    assert (error.task, error.index) == ("eurosat", 0)
    assert error.retryable is (kind is UnavailableError)
    assert error is failure or error.__cause__ is failure


def test_the_tree() -> None:
    assert issubclass(InvalidInputError, ValueError)
    assert issubclass(UnknownTaskError, InvalidInputError)
    assert issubclass(RequestTimeoutError, TimeoutError)
    kinds = [InvalidInputError, RejectedError, UnavailableError, RequestTimeoutError, ServerError]
    assert all(issubclass(kind, ClientError) for kind in kinds)


@pytest.mark.parametrize("kind", [ClientError, UnknownTaskError, RequestTimeoutError])
def test_errors_survive_copying_and_pickling(kind: type[ClientError]) -> None:
    error = kind("too late", task="eurosat", index=3)
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(twin) is kind
        assert (str(twin), twin.task, twin.index) == ("task 'eurosat', item 3: too late", "eurosat", 3)
    assert str(kind("too late")) == "too late"
