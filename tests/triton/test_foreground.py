"""`elastriton serve` in the foreground, as a shell and as the container run it."""

from __future__ import annotations

import ast
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scratch_models import LIMIT_S, MODEL, Asking, regions, started, wait_for

from elastriton.generator.serve.embedded import find_tritonserver
from elastriton.generator.serve.process import session_members

ROOT = Path(__file__).parents[2]
SERVE = [sys.executable, "-m", "elastriton.generator.cli", "serve"]


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
        wait_for(lambda: "elastriton serve: http://" in self.text() or self.process.poll() is not None, "ready")
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
    assert serving.process.wait(LIMIT_S) != 0, serving.text()  # 1, or 139: a server that gives up may crash (2.51)
    assert "no_such_backend" in serving.text().split("elastriton serve: ")[-1]


def test_without_a_tritonserver_it_says_so(
    scratch: tuple[Path, Path], foreground: Callable[[list[str]], Foreground]
) -> None:
    serving = foreground([str(scratch[0]), "--tritonserver", "/no/such/tritonserver"])
    assert serving.process.wait(LIMIT_S) == 1
    assert "no tritonserver at /no/such/tritonserver" in serving.text()
    assert "help: " in serving.text()
    assert "Traceback" not in serving.text()
