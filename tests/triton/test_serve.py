"""`elastriton serve` over scratch models: a deferred scheduler that calls an executor, below an ensemble."""

from __future__ import annotations

import ast
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from elastriton.generator.serve import Server, ServerError, health
from elastriton.generator.serve.embedded import find_tritonserver
from elastriton.generator.serve.process import session_members
from elastriton.generator.serve.rest import Rest

ROOT = Path(__file__).parents[2]
LIMIT_S = 120.0  # liveness only
SERVE = [sys.executable, "-m", "elastriton.generator.cli", "serve"]

SCHEDULER = """
import threading
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        pass

    def execute(self, requests):
        for request in requests:
            data = pb_utils.get_input_tensor_by_name(request, "DATA").as_numpy()
            threading.Thread(target=self.answer, args=(request.get_response_sender(), data)).start()
        return None

    def answer(self, sender, data):
        inputs = [pb_utils.Tensor("DATA", data)]
        def call():
            names = ["ANSWER"]
            return pb_utils.InferenceRequest(model_name="executor", requested_output_names=names, inputs=inputs).exec()
        response = call()
        if not response.has_error():  # the second call comes a second later
            response = call()
        if response.has_error():
            answer = pb_utils.InferenceResponse(error=pb_utils.TritonError(response.error().message()))
        else:
            answer = pb_utils.InferenceResponse([pb_utils.Tensor("ANSWER", response.output_tensors()[0].as_numpy())])
        sender.send(answer, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
EXECUTOR = """
import os
import pathlib
import time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.answers = pathlib.Path(args["model_repository"]) / args["model_version"] / "started"

    def execute(self, requests):
        responses = []
        for request in requests:
            data = pb_utils.get_input_tensor_by_name(request, "DATA").as_numpy()
            if data[0, 0] < 0:
                os._exit(1)
            if data[0, 0] > 0:
                self.answers.touch()
            time.sleep(float(data[0, 0]))
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("ANSWER", data + 1)]))
        return responses
"""
MODEL = """
backend: "{backend}"
max_batch_size: 4
input {{ name: "DATA" data_type: TYPE_FP32 dims: [ 1 ] }}
output {{ name: "ANSWER" data_type: TYPE_FP32 dims: [ 1 ] }}
instance_group {{ kind: KIND_CPU count: 1 }}
"""
ENSEMBLE = """
platform: "ensemble"
max_batch_size: 4
input { name: "DATA" data_type: TYPE_FP32 dims: [ 1 ] }
output { name: "ANSWER" data_type: TYPE_FP32 dims: [ 1 ] }
ensemble_scheduling { step {
  model_name: "scheduler" model_version: -1
  input_map { key: "DATA" value: "DATA" }
  output_map { key: "ANSWER" value: "ANSWER" }
} }
"""


def write_scratch(folder: Path) -> tuple[Path, Path]:
    """A repository and the backends that it needs, in `folder`."""
    backends, repository = folder / "backends", folder / "repository"
    for name, source in {"elastic_scheduler": SCHEDULER, "elastic": EXECUTOR}.items():
        (backends / name).mkdir(parents=True)
        (backends / name / "model.py").write_text(source)
    configs = {
        "task": ENSEMBLE,
        "scheduler": MODEL.format(backend="elastic_scheduler"),
        "executor": MODEL.format(backend="elastic"),
    }
    for name, config in configs.items():
        (repository / name / "1").mkdir(parents=True)
        (repository / name / "1/keep").touch()
        (repository / name / "config.pbtxt").write_text(f'name: "{name}"\n{config}')
    return repository, backends


def infer(url: str, model: str, value: float, timeout_s: float = LIMIT_S) -> float:
    body = {"inputs": [{"name": "DATA", "datatype": "FP32", "shape": [1, 1], "data": [value]}]}
    request = urllib.request.Request(f"{url}/v2/models/{model}/infer", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=timeout_s) as response:
        return float(json.load(response)["outputs"][0]["data"][0])


class Asking:
    """A request in the background, over gRPC: for HTTP, Triton lets the connection end before it stops its models."""

    def __init__(self, grpc_url: str, model: str, value: float) -> None:
        self._client = grpcclient.InferenceServerClient(grpc_url)
        self._data = grpcclient.InferInput("DATA", [1, 1], "FP32")
        self._data.set_data_from_numpy(np.full((1, 1), value, np.float32))
        self._model = model
        self.answer: float | str | None = None
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self) -> None:
        try:
            result = self._client.infer(self._model, [self._data], client_timeout=LIMIT_S)
            self.answer = float(result.as_numpy("ANSWER")[0, 0])
        except InferenceServerException as error:
            self.answer = str(error)

    def wait(self) -> float | str | None:
        """The answer, or the text of the error."""
        self._thread.join()
        self._client.close()
        return self.answer


def started(repository: Path) -> bool:
    return (repository / "executor/1/started").exists()


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {LIMIT_S:g} s"
        time.sleep(0.02)


def regions(pid: int) -> set[str]:
    """The shared memory regions of the servers that process `pid` started."""
    return {path.name for path in Path("/dev/shm").glob(f"elastriton_{pid}_*")}


@pytest.fixture
def scratch(tmp_path: Path) -> tuple[Path, Path]:
    return write_scratch(tmp_path)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, serve_repository: Callable[..., Server]) -> Server:
    """One server for the tests that leave it as it was."""
    repository, backends = write_scratch(tmp_path_factory.mktemp("shared"))
    return serve_repository(repository, backend_directory=backends)


def test_it_answers_through_ensemble_scheduler_and_executor(shared: Server) -> None:
    assert infer(shared.http_url, "task", 0.0) == 1.0


def test_it_serves_grpc_and_metrics_on_loopback(shared: Server) -> None:
    grpc_host, grpc_port = shared.grpc_url.rsplit(":", 1)
    assert grpc_host == "127.0.0.1"
    socket.create_connection((grpc_host, int(grpc_port)), timeout=LIMIT_S).close()
    with urllib.request.urlopen(shared.metrics_url, timeout=LIMIT_S) as answer:
        assert b"nv_inference_request_success" in answer.read()
    listening = {address.removeprefix("::ffff:") for address, _port in listening_sockets(shared.pid)}
    assert listening == {"127.0.0.1"}


def listening_sockets(pid: int) -> set[tuple[str, int]]:
    psutil = pytest.importorskip("psutil")
    connections = psutil.Process(pid).net_connections(kind="tcp")
    return {tuple(found.laddr) for found in connections if found.status == psutil.CONN_LISTEN}


def test_health_asks_the_public_ensembles_only(shared: Server) -> None:
    assert health.check(shared.http_url) == {"task": ""}


def test_health_notices_a_dead_stub_although_triton_is_ready(
    scratch: tuple[Path, Path], serve_repository: Callable[..., Server]
) -> None:
    repository, backends = scratch
    server = serve_repository(repository, backend_directory=backends)
    try:
        before = set(session_members(server.pid))
        with pytest.raises(OSError, match=r"timed out|HTTP Error"):
            infer(server.http_url, "executor", -1.0, timeout_s=5)
        assert set(session_members(server.pid)) < before, "the stub lives"
        assert Rest(server.http_url).ready()
        assert health.main(["--url", server.http_url, "--timeout-s", "3"]) == 1
    finally:
        assert not server.stop(drain_timeout_s=1), "a dead stub never answers: this is no clean end"


def test_stop_answers_what_is_in_flight_and_leaves_nothing_behind(scratch: tuple[Path, Path], tmp_path: Path) -> None:
    repository, backends = scratch
    before = regions(os.getpid())
    with Server(repository, backend_directory=backends, log=tmp_path / "log") as server:
        mine = session_members(server.pid)
        assert len(mine) == 3, "the server and one stub for each of two models"
        assert regions(os.getpid()) > before
        asking = Asking(server.grpc_url, "task", 1.0)
        wait_for(lambda: started(repository), "the request is with the executor")
        assert server.stop()
        assert server.stop(), "twice is as good as once"
    assert asking.wait() == 2.0
    assert not [pid for pid in mine if Path(f"/proc/{pid}").exists()]
    assert regions(os.getpid()) == before


def test_an_idle_connection_does_not_spoil_the_end(scratch: tuple[Path, Path], tmp_path: Path) -> None:
    repository, backends = scratch
    with Server(repository, backend_directory=backends, log=tmp_path / "log") as server:
        connection = HTTPConnection(server.http_url.removeprefix("http://"), timeout=LIMIT_S)
        connection.request("GET", "/v2/health/ready")
        assert connection.getresponse().read() == b""
        assert server.stop(), server.log_tail()
        connection.close()


def test_a_killed_server_leaves_nothing_behind(scratch: tuple[Path, Path], tmp_path: Path) -> None:
    repository, backends = scratch
    before = regions(os.getpid())
    with Server(repository, backend_directory=backends, log=tmp_path / "log") as server:
        mine = session_members(server.pid)
        server.kill()
        wait_for(lambda: server.poll() is not None, "the server is dead")
        assert not server.stop(), "this is no clean end"
    assert not session_members(server.pid)
    assert len(mine) == 3
    assert regions(os.getpid()) == before


def test_two_servers_at_once_keep_apart(shared: Server, scratch: tuple[Path, Path], tmp_path: Path) -> None:
    repository, backends = scratch
    with Server(repository, backend_directory=backends, log=tmp_path / "log") as other:
        assert infer(other.http_url, "task", 0.0) == 1.0
    assert infer(shared.http_url, "task", 0.0) == 1.0


def test_a_model_that_fails_is_named_with_its_reason(scratch: tuple[Path, Path], tmp_path: Path) -> None:
    repository, backends = scratch
    (backends / "elastic/model.py").write_text("import no_such_module_here\n")
    with pytest.raises(ServerError, match=r"'executor'[\s\S]*no_such_module_here") as caught:
        Server(repository, backend_directory=backends, log=tmp_path / "log").__enter__()
    assert caught.value.exit_code not in (None, 0)


def test_a_config_that_triton_cannot_read_is_an_error(scratch: tuple[Path, Path], tmp_path: Path) -> None:
    repository, backends = scratch
    (repository / "odd/1").mkdir(parents=True)
    (repository / "odd/config.pbtxt").write_text('name: "odd" no_such_field: 1\n')
    with pytest.raises(ServerError, match=r"no_such_field[\s\S]*'odd'"):
        Server(repository, backend_directory=backends, log=tmp_path / "log").__enter__()


def test_a_model_py_in_the_callers_directory_does_not_win(
    scratch: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, backends = scratch
    (tmp_path / "here").mkdir()
    (tmp_path / "here/model.py").write_text("raise RuntimeError('the wrong model')\n")
    monkeypatch.chdir(tmp_path / "here")
    with Server(repository, backend_directory=backends, log=tmp_path / "log") as server:
        assert infer(server.http_url, "task", 0.0) == 1.0


# --- in the foreground, as `elastriton serve` and as the container runs it ---


class Foreground:
    """A running `elastriton serve` and what it printed."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        self.log = log
        with log.open("wb") as sink:
            self.process = subprocess.Popen(
                [*SERVE, *arguments], stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
            )

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_ready(self) -> None:
        wait_for(lambda: "elastriton serve: http " in self.text() or self.process.poll() is not None, "ready")
        assert self.process.poll() is None, self.text()

    def server(self) -> int:
        """The process id of its tritonserver."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        assert len(children) == 1
        return int(children[0])


def free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


@pytest.fixture
def foreground(tmp_path: Path) -> Iterator[Callable[[list[str]], Foreground]]:
    running: list[Foreground] = []

    def start(arguments: list[str]) -> Foreground:
        running.append(Foreground(arguments, tmp_path / f"foreground-{len(running)}.log"))
        return running[-1]

    yield start
    for one in running:
        if one.process.poll() is None:
            server = one.server()
            one.process.kill()
            one.process.wait()
            for pid in session_members(server):
                os.kill(pid, signal.SIGKILL)


def container_command() -> list[str]:
    """The arguments of `elastriton serve` in the Dockerfile."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    (command,) = (ast.literal_eval(line.removeprefix("CMD ")) for line in lines if line.startswith("CMD "))
    assert command[:2] == ["elastriton", "serve"]
    return [str(word) for word in command[2:]]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_containers_command_drains_on_a_signal(
    number: signal.Signals, scratch: tuple[Path, Path], foreground: Callable[[list[str]], Foreground]
) -> None:
    repository, backends = scratch
    http, grpc, metrics = free_ports(3)
    here = {
        "/models": str(repository),
        "0.0.0.0": "127.0.0.1",
        "/opt/tritonserver/bin/tritonserver": str(find_tritonserver().binary),
    }
    arguments = [here.get(word, word) for word in container_command()]
    arguments += ["--http-port", str(http), "--grpc-port", str(grpc), "--metrics-port", str(metrics)]
    serving = foreground([*arguments, "--backend-directory", str(backends)])
    serving.wait_ready()
    server = serving.server()
    assert regions(serving.process.pid)
    asking = Asking(f"127.0.0.1:{grpc}", "task", 1.0)
    wait_for(lambda: started(repository), "the request is with the executor")
    os.kill(serving.process.pid, number)
    assert serving.process.wait(LIMIT_S) == 0, serving.text()
    assert asking.wait() == 2.0
    assert not session_members(server)
    assert not regions(serving.process.pid)


def start_scratch(scratch: tuple[Path, Path], foreground: Callable[[list[str]], Foreground]) -> tuple[Foreground, str]:
    repository, backends = scratch
    http, grpc, metrics = map(str, free_ports(3))
    ports = ["--http-port", http, "--grpc-port", grpc, "--metrics-port", metrics]
    serving = foreground([str(repository), *ports, "--backend-directory", str(backends)])
    serving.wait_ready()
    return serving, f"127.0.0.1:{grpc}"


def test_a_second_signal_does_not_wait(
    scratch: tuple[Path, Path], foreground: Callable[[list[str]], Foreground]
) -> None:
    serving, grpc_url = start_scratch(scratch, foreground)
    server = serving.server()
    asking = Asking(grpc_url, "task", 2 * LIMIT_S)
    wait_for(lambda: started(scratch[0]), "the request is with the executor")
    serving.process.terminate()
    wait_for(lambda: "draining" in serving.text(), "the first signal is taken")
    serving.process.terminate()
    assert serving.process.wait(LIMIT_S) == 128 + signal.SIGTERM, serving.text()
    assert isinstance(asking.wait(), str), "an error"
    assert not session_members(server)


def test_a_server_that_dies_gives_its_exit_code(
    scratch: tuple[Path, Path], foreground: Callable[[list[str]], Foreground]
) -> None:
    serving, _grpc_url = start_scratch(scratch, foreground)
    server = serving.server()
    os.kill(server, signal.SIGKILL)
    assert serving.process.wait(LIMIT_S) == 128 + signal.SIGKILL, serving.text()
    assert "ended by itself" in serving.text()
    assert not session_members(server)


def test_a_repository_that_does_not_load_ends_it(
    scratch: tuple[Path, Path], foreground: Callable[[list[str]], Foreground]
) -> None:
    repository, backends = scratch
    (repository / "executor/config.pbtxt").write_text(MODEL.format(backend="no_such_backend"))
    ports = [word for port in ("--http-port", "--grpc-port", "--metrics-port") for word in (port, "0")]
    serving = foreground([str(repository), *ports, "--backend-directory", str(backends)])
    assert serving.process.wait(LIMIT_S) == 1, serving.text()
    assert "no_such_backend" in serving.text().split("elastriton serve: ")[-1]


def test_without_a_tritonserver_it_says_so(
    scratch: tuple[Path, Path], foreground: Callable[[list[str]], Foreground]
) -> None:
    serving = foreground([str(scratch[0]), "--tritonserver", "/no/such/tritonserver"])
    assert serving.process.wait(LIMIT_S) == 1
    assert "no tritonserver at /no/such/tritonserver" in serving.text()
    assert "help: " in serving.text()
    assert "Traceback" not in serving.text()
