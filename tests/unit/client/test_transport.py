"""Server addresses, and real sockets behind which there is no Triton."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from elastriton.client import Client, InvalidInputError, RequestTimeoutError, UnavailableError
from elastriton.client.transport import GrpcTransport, HttpTransport, open_transport

Classify = Callable[..., list[Any]]
SCHEMES = ["grpc", "http"]


@pytest.mark.parametrize("url", ["grpc://127.0.0.1:8001", "grpc://[::1]:8001", "http://triton:8000", "http://a:80/"])
def test_addresses(url: str) -> None:
    assert isinstance(open_transport(url), GrpcTransport if url.startswith("grpc") else HttpTransport)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("127.0.0.1:8001", "does not start with grpc:// or http://"),
        ("localhost:8001", "does not start with grpc:// or http://"),
        ("localhost", "does not start with"),
        ("", "does not start with"),
        ("https://triton:8000", "does not start with"),
        ("grpc:127.0.0.1:8001", "does not start with"),
        ("grpc://127.0.0.1", "names no host and port"),
        ("http://:8000", "names no host and port"),
        ("http://triton:99999", "is no server address: Port out of range"),
        ("http://triton:port", "is no server address: Port could not be cast"),
        ("http://[::1:8000", "is no server address: Invalid IPv6"),
        ("http://triton:8000/v2", "more than a host and a port"),
        ("http://me:secret@triton:8000", "more than a host and a port"),
    ],
)
def test_an_address_that_is_none_says_what_to_write(url: str, words: str) -> None:
    for client in (Client, open_transport):
        with pytest.raises(InvalidInputError, match=words) as caught:
            client(url)
        assert str(caught.value).endswith("write e.g. grpc://127.0.0.1:8001 or http://127.0.0.1:8000")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def url(scheme: str, server: socket.socket) -> str:
    return f"{scheme}://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_nothing_listening_is_unavailable_at_once(classify: Classify, scheme: str, listener: socket.socket) -> None:
    address = url(scheme, listener)
    listener.close()
    start = time.monotonic()
    [error] = classify(address, "eurosat", images=[b"x"], return_errors=True)
    assert type(error) is UnavailableError
    assert error.task == "eurosat"
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_server_that_never_answers_is_a_timeout(classify: Classify, scheme: str, listener: socket.socket) -> None:
    start = time.monotonic()
    with pytest.raises(RequestTimeoutError):
        classify(url(scheme, listener), "eurosat", images=[b"x"] * 3, options={"timeout_s": 0.3})
    assert 0.3 <= time.monotonic() - start < 2


@pytest.mark.parametrize("scheme", SCHEMES)
def test_neither_is_ready(scheme: str, listener: socket.socket) -> None:
    with Client(url(scheme, listener), timeout_s=0.2) as client:
        start = time.monotonic()
        assert client.is_ready() is False
        assert time.monotonic() - start < 2
        listener.close()
        assert client.is_ready() is False
        with pytest.raises(RequestTimeoutError, match="not ready within"):
            client.wait_ready(0.3)
