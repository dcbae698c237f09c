"""The synchronous client: an AsyncClient on an event loop of its own, in a daemon thread."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Literal, overload

from elastriton.client.aio import AsyncClient
from elastriton.client.errors import ClientError
from elastriton.client.inputs import Image, Text
from elastriton.client.loop import LoopThread
from elastriton.client.protocol import Answer
from elastriton.client.transport import Transport


class Client:
    """Ask the tasks of one server; the blocking form of `AsyncClient`, with the same arguments and errors.

    Threads may share one Client. It works inside a running event loop too (a notebook), which it then blocks.

    >>> with Client("http://127.0.0.1:8000") as client:
    ...     [answer] = client.classify("clinc150", texts=["play some jazz"])
    """

    def __init__(
        self,
        server: str | Transport,
        *,
        timeout_s: float = 10.0,
        max_in_flight: int = 64,
        same_clock: bool | None = None,
    ) -> None:
        self._client = AsyncClient(server, timeout_s=timeout_s, max_in_flight=max_in_flight, same_clock=same_clock)
        self._loop = LoopThread()

    @overload
    def classify(
        self,
        task: str,
        *,
        images: Sequence[Image] | None = None,
        texts: Sequence[Text] | None = None,
        slo_ms: float | None = None,
        utility: float | None = None,
        return_errors: Literal[False] = False,
    ) -> list[Answer]: ...

    @overload
    def classify(
        self,
        task: str,
        *,
        images: Sequence[Image] | None = None,
        texts: Sequence[Text] | None = None,
        slo_ms: float | None = None,
        utility: float | None = None,
        return_errors: Literal[True],
    ) -> list[Answer | ClientError]: ...

    def classify(self, task: str, **arguments: Any) -> list[Answer] | list[Answer | ClientError]:
        """As `AsyncClient.classify`: each item is a request of its own, and the answers come in the items' order."""
        answers: list[Answer] = self._loop.run(self._client.classify(task, **arguments))
        return answers

    def is_ready(self) -> bool:
        """As `AsyncClient.is_ready`: whether the server can be reached and says that it is ready."""
        return self._loop.run(self._client.is_ready())

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """As `AsyncClient.wait_ready`: returns once the server is ready, or raises RequestTimeoutError."""
        self._loop.run(self._client.wait_ready(timeout_s))

    def close(self) -> None:
        """Let go of the connections and end the thread. Requests in flight end with ClientError; twice is fine."""
        self._loop.close(self._client.close())

    def __enter__(self) -> Client:
        self._loop.check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
