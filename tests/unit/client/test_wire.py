"""The bytes on real sockets, where a few lines stand in for Triton."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from elastriton.client import Client, InvalidInputError, ServerError, UnavailableError
from elastriton.client.transport import GrpcTransport

Classify = Callable[..., list[Any]]
grpc: Any = pytest.importorskip("grpc")
IMAGE = b"\0jpeg\0"
WIRE_IMAGE = b"\x06\0\0\0" + IMAGE


@contextmanager
def http_answer(answer: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """A socket that reads one request, writes `answer` and closes; yields its URL and what it read."""
    seen: list[bytes] = []

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.settimeout(5)
            while not (seen and b"".join(seen).endswith((WIRE_IMAGE, b"x"))):
                seen.append(connection.recv(1 << 16))
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", seen
        thread.join(5)


def http_ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def test_http(classify: Classify) -> None:
    outputs = [
        {"name": "LABEL", "datatype": "BYTES", "shape": [1, 1], "data": ["River"]},
        {"name": "PROBABILITIES", "datatype": "FP32", "shape": [1, 2], "data": [0.25, 0.75]},
        {"name": "GAMMA", "datatype": "INT32", "shape": [1, 1], "data": [8]},
    ]
    with http_answer(http_ok(json.dumps({"outputs": outputs}).encode())) as (url, seen):
        [answer] = classify(url, "eurosat", images=[IMAGE], slo_ms=50)
    assert (answer.label, answer.probability, answer.gamma) == ("River", 0.75, 8)
    request = b"".join(seen)
    assert request.startswith(b"POST /v2/models/eurosat/infer HTTP/1.1\r\n")
    assert b'"shape":[1,1]' in request
    assert b'"slo_ms":50.0' in request
    assert request.endswith(WIRE_IMAGE)


def test_an_http_connection_that_breaks_is_unavailable(classify: Classify) -> None:
    with http_answer(b"") as (url, _), pytest.raises(UnavailableError, match="disconnected"):
        classify(url, "eurosat", images=[b"x"])


def test_an_http_error_keeps_its_words(classify: Classify) -> None:
    body = b'{"error": "in ensemble \'eurosat\', [invalid] no image"}'
    answer = http_ok(body).replace(b"200 OK", b"400 Bad Request")
    with http_answer(answer) as (url, _), pytest.raises(InvalidInputError, match="item 0: no image"):
        classify(url, "eurosat", images=[b"x"])


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"outputs": [{}]}', b'{"outputs": [{"name": "LABEL"}]}', b"{}"])
def test_a_web_server_that_is_no_triton_is_a_server_error(classify: Classify, body: bytes) -> None:
    with http_answer(http_ok(body)) as (url, _), pytest.raises(ServerError, match=r"Triton|lacks GAMMA"):
        classify(url, "eurosat", images=[b"x"])


class Triton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """A gRPC server that labels everything with its own name, and says what it was asked and for how long."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seen: list[Any] = []
        self.remaining_s: list[float] = []

    def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerReadyResponse(ready=True)

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.seen.append(request)
        self.remaining_s.append(context.time_remaining())
        if request.model_name != "eurosat":
            context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.model_name}' is not found")
        label = self.name.encode()
        response = service_pb2.ModelInferResponse(model_name="eurosat")
        for name, datatype, data in [
            ("LABEL", "BYTES", np.uint32(len(label)).tobytes() + label),
            ("PROBABILITIES", "FP32", np.array([0.25, 0.75], np.float32).tobytes()),
            ("GAMMA", "INT32", np.array([-4], np.int32).tobytes()),
        ]:
            shape = [1, 2 if name == "PROBABILITIES" else 1]
            response.outputs.add(name=name, datatype=datatype, shape=shape)
            response.raw_output_contents.append(data)
        return response


@contextmanager
def grpc_server(name: str, address: str = "127.0.0.1:0") -> Iterator[tuple[Triton, int]]:
    triton, server = Triton(name), grpc.server(ThreadPoolExecutor(4))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(triton, server)
    port = server.add_insecure_port(address)
    server.start()
    yield triton, port
    server.stop(None).wait()


def test_grpc(classify: Classify) -> None:
    with grpc_server("River") as (triton, port):
        [answer] = classify(f"grpc://127.0.0.1:{port}", "eurosat", images=[IMAGE], utility=2, options={"timeout_s": 5})
    assert (answer.label, answer.probability, answer.gamma) == ("River", 0.75, -4)
    [request] = triton.seen
    [tensor] = request.inputs
    assert (tensor.name, tensor.datatype, list(tensor.shape)) == ("IMAGE", "BYTES", [1, 1])
    assert list(request.raw_input_contents) == [WIRE_IMAGE]
    assert request.parameters["utility"].double_param == 2.0
    assert 4 < triton.remaining_s[0] < 6


def test_a_grpc_error_keeps_its_words(classify: Classify) -> None:
    with grpc_server("River") as (_, port):
        [error] = classify(f"grpc://127.0.0.1:{port}", "nothere", texts=["x"], return_errors=True)
    assert (type(error).__name__, error.index) == ("UnknownTaskError", 0)
    assert error.message == "Request for unknown model: 'nothere' is not found"


def test_grpc_spreads_requests_over_every_address() -> None:
    with grpc_server("a") as (_, first), grpc_server("b") as (_, second):
        transport = GrpcTransport(f"ipv4:127.0.0.1:{first},127.0.0.1:{second}")
        with Client(transport) as client:
            client.wait_ready(5)
            labels = {client.classify("eurosat", images=[b"x"])[0].label for _ in range(200)}
    assert labels == {"a", "b"}


def test_a_client_meets_a_grpc_server_soon_after_its_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with Client(f"grpc://127.0.0.1:{port}") as client:
        for _ in range(20):
            assert client.is_ready() is False
        with grpc_server("River", f"127.0.0.1:{port}"):
            client.wait_ready(3)
