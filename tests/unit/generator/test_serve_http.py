"""Draining and health, against a made-up Triton that speaks just enough of the HTTP API."""

from __future__ import annotations

import io
import json
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from elastriton.generator.serve import drain, health
from elastriton.generator.serve.drain import levels
from elastriton.generator.serve.rest import public_ensembles


def ensemble(*steps: str) -> dict[str, Any]:
    step = [{"model_name": name} for name in steps]
    data = {"name": "TEXT", "data_type": "TYPE_STRING", "dims": ["1"]}
    return {"platform": "ensemble", "max_batch_size": 8, "input": [data], "ensemble_scheduling": {"step": step}}


CONFIGS: dict[str, dict[str, Any]] = {
    "words": {"backend": "elastic", "input": []},
    "pixels": {"backend": "elastic"},
    "banking": ensemble("banking_cascade"),
    "banking_cascade": {"backend": "cascade"},
    "eurosat": ensemble("decode", "eurosat_inner"),
    "eurosat_inner": ensemble("scheduler"),
    "decode": {"backend": "decode_image"},
    "scheduler": {"backend": "elastic_scheduler"},
}


class FakeTriton(ThreadingHTTPServer):
    """Unloads at once, but for `stuck`; `answers` has the status and the text that each model answers with."""

    daemon_threads = True

    def __init__(self, configs: dict[str, dict[str, Any]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.configs = configs
        self.states = dict.fromkeys(configs, "READY")
        self.unloaded: list[str] = []
        self.stuck = ""
        self.answers: dict[str, tuple[int, str]] = {}
        self.bodies: list[tuple[int, bytes]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeTriton

    def log_message(self, format: str, *args: Any) -> None:
        """Quietly."""

    def answer(self, status: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        name = self.path.split("/")[3]
        known = name in self.server.configs
        self.answer(200 if known else 400, self.server.configs.get(name, {"error": "unknown model"}))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v2/repository/index":
            self.answer(200, [{"name": name, "state": state} for name, state in self.server.states.items()])
        elif self.path.endswith("/unload"):
            name = self.path.split("/")[4]
            self.server.unloaded.append(name)
            self.server.states[name] = "UNLOADING" if name == self.server.stuck else "UNAVAILABLE"
            self.answer(200, {})
        else:
            self.server.bodies.append((int(self.headers["Inference-Header-Content-Length"]), body))
            status, text = self.server.answers.get(self.path.split("/")[3], (200, ""))
            self.answer(status, {"error": text})


@pytest.fixture
def triton() -> Iterator[FakeTriton]:
    server = FakeTriton(CONFIGS)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_public_ensembles_are_those_in_no_other() -> None:
    assert public_ensembles(CONFIGS) == ["banking", "eurosat"]


def test_callers_are_unloaded_before_those_they_call() -> None:
    callers = [["banking", "eurosat"], ["eurosat_inner"], ["banking_cascade"], ["scheduler"]]
    assert levels(CONFIGS) == [*callers, ["decode", "pixels", "words"]]


def test_drain_unloads_all_in_that_order(triton: FakeTriton) -> None:
    assert drain(triton.url, timeout_s=30)
    assert triton.unloaded == [name for level in levels(CONFIGS) for name in level]


def test_drain_leaves_the_called_ones_while_a_caller_is_busy(triton: FakeTriton) -> None:
    triton.stuck = "scheduler"
    assert not drain(triton.url, timeout_s=0.3)
    assert triton.unloaded[-1] == "scheduler"
    assert triton.states["words"] == "READY"


def test_drain_waits_for_what_was_unloaded_before(triton: FakeTriton) -> None:
    triton.states["old"] = "UNLOADING"
    assert not drain(triton.url, timeout_s=0.3)


def test_drain_of_a_server_that_is_gone_fails_quietly() -> None:
    assert not drain("http://127.0.0.1:9", timeout_s=5)


def test_every_public_ensemble_is_asked(triton: FakeTriton) -> None:
    assert health.check(triton.url) == {"banking": "", "eurosat": ""}
    assert len(triton.bodies) == 2
    length, body = triton.bodies[0]
    (text,) = json.loads(body[:length])["inputs"]
    assert text == {"name": "TEXT", "datatype": "BYTES", "shape": [1, 1], "parameters": {"binary_data_size": 8}}
    assert body[length:] == struct.pack("<I", 4) + b"ping"


@pytest.mark.parametrize(
    ("status", "text", "code"),
    [
        (200, "", 0),
        (503, "in ensemble 'eurosat', [rejected] the queue is full", 0),
        (503, "in ensemble 'eurosat', [unavailable] the executor is gone", 1),
        (500, "Stub process 'x_0_0' is not healthy", 1),
        (500, "[internal] the answer [rejected] is not the tag", 1),
    ],
)
def test_only_an_answer_or_a_rejection_is_healthy(triton: FakeTriton, status: int, text: str, code: int) -> None:
    triton.answers["eurosat"] = (status, text)
    assert health.main(["--url", triton.url]) == code


def test_one_sick_task_is_enough_and_is_named(triton: FakeTriton, capsys: pytest.CaptureFixture[str]) -> None:
    triton.answers["eurosat"] = (500, "broken")
    assert health.main(["--url", triton.url]) == 1
    captured = capsys.readouterr()
    assert captured.out == "banking: ok\n"
    assert "eurosat: HTTP 500" in captured.err


def test_a_task_can_be_named(triton: FakeTriton) -> None:
    triton.answers["eurosat"] = (500, "broken")
    assert health.main(["--url", triton.url, "banking"]) == 0
    assert health.main(["--url", triton.url, "no_such_task"]) == 1


def test_a_server_without_tasks_or_without_answer_is_sick(triton: FakeTriton) -> None:
    triton.states = {}
    assert health.main(["--url", triton.url]) == 1
    assert health.main(["--url", "http://127.0.0.1:9"]) == 1


@pytest.mark.parametrize(
    ("entry", "shape", "size"),
    [
        ({"name": "TEXT", "data_type": "TYPE_STRING", "dims": ["2"]}, [1, 2], 16),
        ({"name": "TEXT", "data_type": "TYPE_STRING", "dims": [-1]}, [1, 1], 8),
        ({"name": "PIXELS", "data_type": "TYPE_FP32", "dims": [3, -1, 4]}, [1, 3, 1, 4], 48),
    ],
)
def test_the_request_fits_the_input(entry: dict[str, Any], shape: list[int], size: int) -> None:
    headers, body = health.tiny_request({"max_batch_size": 4, "input": [entry]})
    length = int(headers["Inference-Header-Content-Length"])
    (described,) = json.loads(body[:length])["inputs"]
    assert described["shape"] == shape
    assert len(body) - length == described["parameters"]["binary_data_size"] == size


@pytest.mark.parametrize(
    ("datatype", "dims", "shape", "skip"),
    [("TYPE_UINT8", [-1], [len(health.tiny_png())], 0), ("TYPE_STRING", [1], [1], 4)],
)
def test_an_image_is_a_real_one(datatype: str, dims: list[int], shape: list[int], skip: int) -> None:
    image = pytest.importorskip("PIL.Image")
    entries = [
        {"name": "IMAGE", "data_type": datatype, "dims": dims},
        {"name": "MASK", "data_type": "TYPE_FP32", "dims": [1], "optional": True},
    ]
    headers, body = health.tiny_request({"input": entries})
    length = int(headers["Inference-Header-Content-Length"])
    (described,) = json.loads(body[:length])["inputs"]
    assert described["shape"] == shape
    decoded = image.open(io.BytesIO(body[length + skip :]))
    decoded.load()
    assert (decoded.size, decoded.mode, decoded.getpixel((3, 3))) == ((8, 8), "RGB", (128, 128, 128))
