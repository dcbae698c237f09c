"""The asyncio client: the one implementation; `Client` runs it on a thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, TypeVar, overload

from elastriton.client.errors import (
    CLOSED,
    TRANSPORT_FAILURES,
    ClientError,
    InvalidInputError,
    RequestTimeoutError,
    translate,
)
from elastriton.client.inputs import Image, Text, encode, one_kind
from elastriton.client.protocol import Answer, Request, check_task, decode, request_parameters
from elastriton.client.transport import Transport, is_local, open_transport
from elastriton.core.parameters import SENT_UNIX_MS

T = TypeVar("T")

POLL_S = 0.1
MAX_TIMEOUT_S = 86_400
"""gRPC counts nanoseconds in 64 bits: what is much more, it takes for the past."""


class AsyncClient:
    """Ask the tasks of one server, from one event loop.

    `server` is a URL, `grpc://host:8001` or `http://host:8000`, or a Transport. A request without an answer after
    `timeout_s` seconds ends with RequestTimeoutError. At most `max_in_flight` requests are under way at once, over all
    calls. Raises InvalidInputError for a URL or a number that makes no sense; connects on first use.

    With `same_clock`, requests say when they were sent, and their `slo_ms` counts from then: what they wait for before
    they reach the scheduler is part of it. The server's clock must agree with this machine's to within a few ms, as it
    does for a URL of a loopback address; there it is the default.

    >>> async with AsyncClient("grpc://127.0.0.1:8001") as client:
    ...     answers = await client.classify("eurosat", images=["a.jpg", "b.jpg"], slo_ms=50)
    """

    def __init__(
        self,
        server: str | Transport,
        *,
        timeout_s: float = 10.0,
        max_in_flight: int = 64,
        same_clock: bool | None = None,
    ) -> None:
        if not 0 < timeout_s <= MAX_TIMEOUT_S:
            raise InvalidInputError(f"timeout_s={timeout_s}; it must be above 0 and at most {MAX_TIMEOUT_S}, a day")
        if max_in_flight < 1:
            raise InvalidInputError(f"max_in_flight={max_in_flight}; it must be at least 1")
        self._transport = open_transport(server) if isinstance(server, str) else server
        self._same_clock = isinstance(server, str) and is_local(server) if same_clock is None else same_clock
        self._timeout_s = timeout_s
        self._slots = asyncio.Semaphore(max_in_flight)
        self._under_way: set[asyncio.Task[Any]] = set()
        self._closed = False

    @overload
    async def classify(
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
    async def classify(
        self,
        task: str,
        *,
        images: Sequence[Image] | None = None,
        texts: Sequence[Text] | None = None,
        slo_ms: float | None = None,
        utility: float | None = None,
        return_errors: Literal[True],
    ) -> list[Answer | ClientError]: ...

    async def classify(
        self,
        task: str,
        *,
        images: Sequence[Image] | None = None,
        texts: Sequence[Text] | None = None,
        slo_ms: float | None = None,
        utility: float | None = None,
        return_errors: bool = False,
    ) -> list[Answer] | list[Answer | ClientError]:
        """Send each item as a request of its own, all at once, and return the answers in the order of the items.

        Give either `images` (encoded bytes, paths or Pillow images) or `texts` (strings, or tuples of two for tasks
        over pairs). `slo_ms` is the time within which an answer is useful (from arrival at the scheduler; see
        `same_clock`), `utility` what it is then worth; both default to what the task was generated with. One bad item
        never costs another its answer: with `return_errors=True` its ClientError stands in its place, otherwise the
        first error is raised after every request has ended.

        Raises InvalidInputError at once for arguments that are wrong as a whole, ClientError on a closed client.
        """
        self._check_open()
        tensor, items = one_kind(images, texts)
        parameters = request_parameters(slo_ms, utility)
        check_task(task)
        outcomes = await self._ended([self._ask(task, tensor, item, parameters, i) for i, item in enumerate(items)])
        answers: list[Answer | ClientError] = []
        for index, ended in enumerate(outcomes):
            cut_off = self._closed and isinstance(ended, asyncio.CancelledError)
            outcome = ClientError(CLOSED, task=task, index=index) if cut_off else ended
            if not isinstance(outcome, Answer) and not (return_errors and isinstance(outcome, ClientError)):
                raise outcome
            answers.append(outcome)
        return answers

    async def is_ready(self) -> bool:
        """Whether the server can be reached and says that it is ready; one small request is the surer proof."""
        self._check_open()
        [ended] = await self._ended([self._transport.server_ready(self._timeout_s)])
        if self._closed and isinstance(ended, asyncio.CancelledError):
            raise ClientError(CLOSED)
        if isinstance(ended, BaseException) and not isinstance(ended, TRANSPORT_FAILURES):
            raise ended
        return ended is True

    async def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Return once the server is ready; raises RequestTimeoutError if it is not within `timeout_s` seconds."""
        try:
            await asyncio.wait_for(self._poll_ready(), timeout_s)
        except asyncio.TimeoutError:
            raise RequestTimeoutError(f"the server was not ready within {timeout_s:g} s") from None

    async def close(self) -> None:
        """Let go of the connections. Requests in flight end with ClientError; closing twice is fine."""
        if not self._closed:
            self._closed = True
            cut_off = list(self._under_way)
            for ask in cut_off:
                ask.cancel()
            await asyncio.gather(*cut_off, return_exceptions=True)
            await self._transport.close()

    async def __aenter__(self) -> AsyncClient:
        self._check_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _ask(self, task: str, tensor: str, item: object, parameters: Mapping[str, float], index: int) -> Answer:
        try:
            async with self._slots:
                values = await encode(tensor, item)
                sent = {SENT_UNIX_MS: round(time.time() * 1000.0)} if self._same_clock else {}
                request = Request(task, tensor, values, {**parameters, **sent})
                start = time.perf_counter()
                outputs = await self._transport.infer(request, self._timeout_s)
                return decode(task, outputs, (time.perf_counter() - start) * 1000.0)
        except ClientError as error:
            error.task, error.index = task, index
            raise
        except TRANSPORT_FAILURES as failure:
            raise translate(failure, task, index) from failure

    async def _ended(self, calls: Sequence[Coroutine[Any, Any, T]]) -> list[T | BaseException]:
        """What becomes of calls that `close` may cut off."""
        tasks = [asyncio.create_task(call) for call in calls]
        self._under_way.update(tasks)
        try:
            return await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            self._under_way.difference_update(tasks)

    async def _poll_ready(self) -> None:
        while not await self.is_ready():
            await asyncio.sleep(POLL_S)

    def _check_open(self) -> None:
        if self._closed:
            raise ClientError(CLOSED)
