"""`elastriton serve` over scratch models: a deferred scheduler that calls an executor, below an ensemble."""

from __future__ import annotations

import os
import socket
import urllib.request
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path

import pytest
from scratch_models import LIMIT_S, Asking, infer, regions, started, wait_for, write_scratch

from elastriton.generator.serve import Server, ServerError, health
from elastriton.generator.serve.process import session_members
from elastriton.generator.serve.rest import Rest

ROOT = Path(__file__).parents[2]


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
        assert server.stop(), server.failures()
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
