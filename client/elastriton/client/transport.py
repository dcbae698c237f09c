"""How a request reaches a server: gRPC or HTTP through tritonclient's asyncio clients, or a fake one in tests.

A transport knows nothing of batches, retries or errors' meanings: it sends one request and returns its output tensors,
or raises one of `errors.TRANSPORT_FAILURES`. It connects on first use, on the event loop that uses it.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable
from ipaddress import ip_address
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import numpy as np
from tritonclient.utils import InferenceServerException

from elastriton.client.errors import InvalidInputError
from elastriton.client.protocol import OUTPUTS, Outputs, Request

T = TypeVar("T")
_EXAMPLES = "write e.g. grpc://127.0.0.1:8001 or http://127.0.0.1:8000"
_CHANNEL = {
    "grpc.max_send_message_length": -1,
    "grpc.max_receive_message_length": -1,
    "grpc.initial_reconnect_backoff_ms": 200,
    "grpc.max_reconnect_backoff_ms": 1000,
    "grpc.lb_policy_name": "round_robin",
}


class Transport(Protocol):
    """Where an AsyncClient sends its requests; implement it to reach something other than a Triton server."""

    async def infer(self, request: Request, timeout_s: float) -> Outputs:
        """Return the output tensors by name, batch dimension first; raise TimeoutError after `timeout_s` seconds."""

    async def server_ready(self, timeout_s: float) -> bool:
        """Whether the server says that it is ready; may raise what `infer` may."""

    async def close(self) -> None:
        """Let go of every connection; called once, when no request is in flight."""


def open_transport(url: str) -> Transport:
    """The transport for a URL such as `grpc://host:8001` or `http://host:8000`; raises InvalidInputError for others."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidInputError(f"{url!r} is no server address: {error}; {_EXAMPLES}") from None
    kinds: dict[str, type[GrpcTransport] | type[HttpTransport]] = {"grpc": GrpcTransport, "http": HttpTransport}
    if parts.scheme not in kinds or "://" not in url:
        raise InvalidInputError(f"{url!r} does not start with grpc:// or http://; {_EXAMPLES}")
    if not host or port is None:
        raise InvalidInputError(f"{url!r} names no host and port; {_EXAMPLES}")
    if parts.username or parts.path.strip("/") or parts.query or parts.fragment:
        raise InvalidInputError(f"{url!r} has more than a host and a port; {_EXAMPLES}")
    return kinds[parts.scheme](parts.netloc)


def is_local(url: str) -> bool:
    """Whether a URL names this machine by its loopback address."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


class GrpcTransport:
    """gRPC over one channel, which spreads its requests over every address that the host name resolves to.

    A refused connection is tried again after at most about 1 s (gRPC's own default is 120 s), so that a client meets a
    server soon after its start.
    """

    def __init__(self, address: str) -> None:
        from tritonclient.grpc import aio

        self._module: Any = aio
        self._address = address
        self._client: Any = None

    def _connected(self) -> Any:
        if self._client is None:
            self._client = self._module.InferenceServerClient(self._address, channel_args=list(_CHANNEL.items()))
        return self._client

    async def infer(self, request: Request, timeout_s: float) -> Outputs:
        tensor, parameters = _filled(self._module.InferInput, request), dict(request.parameters)
        call = self._connected().infer(request.task, [tensor], parameters=parameters, client_timeout=timeout_s)
        return await _outputs(call)

    async def server_ready(self, timeout_s: float) -> bool:
        return bool(await self._connected().is_server_ready(client_timeout=timeout_s))

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()


class HttpTransport:
    """HTTP with connections kept alive, as many as requests are in flight."""

    def __init__(self, address: str) -> None:
        from tritonclient.http import aio

        self._module: Any = aio
        self._address = address
        self._client: Any = None

    def _connected(self) -> Any:
        if self._client is None:
            self._client = self._module.InferenceServerClient(self._address, conn_limit=0, conn_timeout=None)
        return self._client

    async def infer(self, request: Request, timeout_s: float) -> Outputs:
        tensor, parameters = _filled(self._module.InferInput, request), dict(request.parameters)
        call = self._connected().infer(request.task, [tensor], parameters=parameters)
        return await _outputs(self._within(call, timeout_s))

    async def server_ready(self, timeout_s: float) -> bool:
        return bool(await self._within(self._connected().is_server_ready(), timeout_s))

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()

    @staticmethod
    async def _within(call: Awaitable[T], timeout_s: float) -> T:
        """Await the call; errors of aiohttp leave as ConnectionError."""
        from aiohttp import ClientError

        try:
            return await asyncio.wait_for(call, timeout_s)
        except ClientError as error:
            raise ConnectionError(str(error) or type(error).__name__) from error


def _filled(kind: Any, request: Request) -> Any:
    tensor = kind(request.tensor, [1, len(request.values)], "BYTES")
    tensor.set_data_from_numpy(np.array([request.values], dtype=np.object_))
    return tensor


async def _outputs(answer: Awaitable[Any]) -> Outputs:
    try:
        result = await answer
        found = {name: result.as_numpy(name) for name in OUTPUTS}
    except (AttributeError, LookupError, TypeError, ValueError, struct.error) as error:
        raise InferenceServerException(f"the answer is not Triton's: {error!r}; is this a Triton server?") from error
    return {name: array for name, array in found.items() if array is not None}
