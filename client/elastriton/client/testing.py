"""A transport for tests: a function answers in the server's place.

>>> def handler(request: Request) -> dict[str, object]:
...     return {"LABEL": "River", "PROBABILITIES": [0.1, 0.9], "GAMMA": 0}
>>> with Client(FakeTransport(handler)) as client:
...     [answer] = client.classify("eurosat", images=[b"an encoded image"])
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from elastriton.client.protocol import Outputs, Request

Handler: TypeAlias = Callable[[Request], Mapping[str, Any] | Awaitable[Mapping[str, Any]]]


class FakeTransport:
    """Pass it to a client in place of a URL; `handler`, a function or coroutine function, answers each Request.

    It returns the output tensors by name without the batch dimension (a plain number, string or list is fine), or
    raises: a ClientError arrives as it is, TimeoutError and ConnectionError as a real transport's would. `requests`
    lists every Request seen, `ready` is what `is_ready` says, `closed` whether the client has let go.
    """

    def __init__(self, handler: Handler, *, ready: bool = True) -> None:
        self._handler = handler
        self.ready = ready
        self.closed = False
        self.requests: list[Request] = []

    async def infer(self, request: Request, timeout_s: float) -> Outputs:
        self.requests.append(request)
        given = self._handler(request)
        outputs = await asyncio.wait_for(given, timeout_s) if inspect.isawaitable(given) else given
        return {name: np.asarray(value)[np.newaxis] for name, value in outputs.items()}

    async def server_ready(self, timeout_s: float) -> bool:  # noqa: ARG002
        return self.ready

    async def close(self) -> None:
        self.closed = True
