"""The errors of the client, and how each is read out of what Triton, gRPC or HTTP said.

    ClientError                      the base; also "this client is closed"
    ├── InvalidInputError            the request is wrong: sending it again cannot help          (a ValueError)
    │   └── UnknownTaskError         no task of this name is served
    ├── RejectedError                the deadline cannot be met or the queue is full; nothing is wrong
    ├── UnavailableError             the server cannot be reached, is starting or is draining    (retryable)
    ├── RequestTimeoutError          no answer within the client's own timeout                   (a TimeoutError)
    └── ServerError                  the server failed, or its answer makes no sense

A message that carries a tag of `elastriton.core.errors` is believed first, since the tag survives every hop inside
Triton; words that Triton itself uses come second, the gRPC or HTTP status last.
"""

from __future__ import annotations

import asyncio
import re
from typing import ClassVar

from tritonclient.utils import InferenceServerException

from elastriton.core import errors as core

CLOSED = "this client is closed; make a new one, or keep this one open for longer"
TRANSPORT_FAILURES: tuple[type[Exception], ...] = (InferenceServerException, OSError, asyncio.TimeoutError)


class ClientError(Exception):
    """The base of every error this client raises.

    `task` is the task asked for and `index` the item's position in the list given; each is None where it does not
    apply. `message` is the text without them. `retryable` says that the same request may succeed elsewhere or later.
    """

    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, task: str | None = None, index: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.task = task
        self.index = index

    def __str__(self) -> str:
        place = [] if self.task is None else [f"task {self.task!r}"]
        place += [] if self.index is None else [f"item {self.index}"]
        return f"{', '.join(place)}: {self.message}" if place else self.message


class InvalidInputError(ClientError, ValueError):
    """The request is wrong: sending the same request again cannot help."""


class UnknownTaskError(InvalidInputError):
    """The server serves no task of this name."""


class RejectedError(ClientError):
    """The server is well, but cannot meet the deadline or has a full queue: ask for more time, or send less."""


class UnavailableError(ClientError):
    """The server cannot be reached, is not ready yet, is draining or lost a model: try again, or another replica."""

    retryable = True


class RequestTimeoutError(ClientError, TimeoutError):
    """No answer came within the client's own timeout; the server may still be working on it."""


class ServerError(ClientError):
    """The server failed in a way the caller can do nothing about, or its answer cannot be understood."""


_BY_TAG: dict[type[core.RequestError], type[ClientError]] = {
    core.InvalidInput: InvalidInputError,
    core.Rejected: RejectedError,
    core.Unavailable: UnavailableError,
    core.Internal: ServerError,
}
_BY_STATUS: dict[str, type[ClientError]] = {
    **dict.fromkeys(("INVALID_ARGUMENT", "400", "413"), InvalidInputError),
    **dict.fromkeys(("UNAVAILABLE", "502", "503"), UnavailableError),
    **dict.fromkeys(("DEADLINE_EXCEEDED", "408", "504"), RequestTimeoutError),
    "429": RejectedError,
}
_PREFIX = re.compile(r"^(?:\[request id: [^\]]*\] |in ensemble '[^']*', )+")


def translate(failure: Exception, task: str, index: int | None = None) -> ClientError:
    """The ClientError that says what `failure`, one of TRANSPORT_FAILURES, means to the caller who sent the item."""
    if isinstance(failure, InferenceServerException):
        kind, message = _from_triton(failure.message() or str(failure), failure.status() or "")
    elif isinstance(failure, asyncio.TimeoutError | TimeoutError):
        kind, message = RequestTimeoutError, str(failure) or "no answer within the client's timeout"
    else:
        kind, message = UnavailableError, f"cannot talk to the server: {failure}"
    return kind(message, task=task, index=index)


def _from_triton(message: str, status: str) -> tuple[type[ClientError], str]:
    tagged = core.parse(message)
    if tagged is not None:
        return _BY_TAG[type(tagged)], str(tagged)
    text = _PREFIX.sub("", message)
    if core.GONE.search(text):
        return UnavailableError, text
    if "unknown model" in text:
        return (UnavailableError if "in ensemble" in message else UnknownTaskError), text
    return _BY_STATUS.get(status.removeprefix("StatusCode."), ServerError), text
