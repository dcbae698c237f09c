"""Starting and ending a child, what it is started with, and how little it takes to import all that."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from elastriton.core.errors import ConfigError
from elastriton.generator.serve import Server
from elastriton.generator.serve.embedded import TritonServer
from elastriton.generator.serve.foreground import _exit_code
from elastriton.generator.serve.launch import Endpoints, choose_ports, command, environment
from elastriton.generator.serve.process import Child, failures, session_members

LIMIT_S = 60.0  # liveness only


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def child(script: str, folder: Path, log: Path | None = None) -> Child:
    return Child([sys.executable, "-u", "-c", script], os.environ, folder, log)


def test_the_log_goes_to_the_file_and_its_end_is_kept(tmp_path: Path) -> None:
    running = child("for i in range(1000): print('line', i)", tmp_path, tmp_path / "log")
    wait_for(lambda: running.poll() is not None)
    assert running.finish(LIMIT_S) == 0
    assert (tmp_path / "log").read_text().count("line") == 1000
    assert running.tail(2) == "line 998\nline 999"


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    script = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up'); time.sleep(600)"
    running = child(script, tmp_path, tmp_path / "log")
    wait_for(lambda: "up" in running.tail())
    assert running.finish(0.2) == -9


def test_what_a_child_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    script = "import subprocess; subprocess.Popen(['sleep', '600']); print('up')"
    running = child(script, tmp_path, tmp_path / "log")
    wait_for(lambda: running.poll() is not None)
    (left,) = session_members(running.pid)
    assert running.finish(LIMIT_S) == 0
    assert left not in session_members(running.pid)


LOG = r"""
E1121 10:55:34.389068 4571 server.cc:241] "CudaDriverHelper has not been initialized."
[libprotobuf ERROR /tmp/x/text_format.cc:337] Error parsing text-format inference.ModelConfig: 1:4: no field "nam".
I1121 10:55:34.390316 4571 model_lifecycle.cc:472] "loading: bad:1"
E1121 10:55:34.740417 4571 model_lifecycle.cc:642] "failed to load 'bad' version 1: Internal: boom\n\nAt:\n  m.py(1)\n"
E1121 10:55:34.740418 4571 model_lifecycle.cc:642] "failed to load 'bad' version 1: Internal: boom\n\nAt:\n  m.py(1)\n"
error: creating server: Internal - failed to load all models
"""


def test_the_lines_that_matter_are_picked() -> None:
    assert failures(LOG.splitlines()) == (
        'Error parsing text-format inference.ModelConfig: 1:4: no field "nam".\n'
        "failed to load 'bad' version 1: Internal: boom\n\nAt:\n  m.py(1)"
    )


def test_without_such_lines_it_is_the_last_ones(tmp_path: Path) -> None:
    running = child("print('Segmentation fault')", tmp_path, tmp_path / "log")
    wait_for(lambda: "fault" in running.tail())
    assert running.failures() == "Segmentation fault"
    running.finish(LIMIT_S)


def test_the_last_words_of_a_child_are_waited_for(tmp_path: Path) -> None:
    script = "import os; os.write(1, b'x\\n' * 200_000 + b'error: the reason\\n')"
    running = child(script, tmp_path, tmp_path / "log")
    wait_for(lambda: running.poll() is not None)
    assert running.failures() == "the reason"
    running.finish(LIMIT_S)


def test_the_command_line_is_ours() -> None:
    line = command(Path("/t"), Path("/repository"), Path("/backends"), Endpoints("127.0.0.1", 1, 2, 3), "mine_")
    options = dict(zip(line[1::2], line[2::2], strict=False))
    assert options["--model-control-mode"] == "explicit"
    assert options["--load-model"] == "*"
    assert {options[f"--{kind}-address"] for kind in ("http", "grpc", "metrics")} == {"127.0.0.1"}
    assert [options[f"--{kind}-port"] for kind in ("http", "grpc", "metrics")] == ["1", "2", "3"]
    assert "--disable-auto-complete-config" in line
    settings = {"thread-pool-size=64", "shm-default-byte-size=16777216", "shm-region-prefix-name=mine_"}
    assert {word.partition(",")[2] for word in line if word.startswith("--backend-config=python,")} == settings


@pytest.mark.parametrize(
    ("address", "host"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]")]
)
def test_an_address_of_all_interfaces_is_reached_on_loopback(address: str, host: str) -> None:
    assert Endpoints(address, 1, 2, 3).host == host


def test_a_stub_finds_this_python_and_only_its_libpython(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/cuda")
    server = TritonServer(Path("/t"), Path("/b"), Path("/s"), Path("/libs"))
    variables = environment(server, Path("/python/lib/libpython3.so"), tmp_path / "lib")
    assert variables["PATH"] == f"{Path(sys.executable).parent}:/usr/bin"
    assert variables["LD_LIBRARY_PATH"] == f"{tmp_path / 'lib'}:/libs:/cuda"
    assert [entry.readlink() for entry in (tmp_path / "lib").iterdir()] == [Path("/python/lib/libpython3.so")]


def test_ports_are_free_and_differ() -> None:
    ports = choose_ports("127.0.0.1", [0, 0, 0])
    assert len(set(ports)) == 3
    assert choose_ports("127.0.0.1", ports) == ports


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"cannot listen on 127\.0\.0\.1:{port}: Address already in use"):
            choose_ports("127.0.0.1", [0, port])


@pytest.mark.parametrize("address", ["192.0.2.1", "no such host"])
def test_an_address_of_another_machine_is_told_from_a_port_in_use(address: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot listen on {address}:0: .*\nhelp: another --address"):
        choose_ports(address, [0])


def test_a_folder_that_is_no_repository_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no model repository"):
        Server(tmp_path)


# A tritonserver reduced to what matters here: its metrics port opens well after its HTTP port says that it is ready.
LATE_METRICS = """
import http.server, socket, sys, threading, time
http.server.BaseHTTPRequestHandler.do_GET = lambda self: (self.send_response(200), self.end_headers())
ready = http.server.HTTPServer(("127.0.0.1", {http}), http.server.BaseHTTPRequestHandler)
threading.Thread(target=ready.serve_forever).start()
time.sleep(0.5)
metrics = socket.create_server(("127.0.0.1", {metrics}))
"""


def test_a_server_is_ready_once_its_metrics_are(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.pbtxt").touch()
    server = Server(tmp_path)
    script = LATE_METRICS.format(http=server._endpoints.http, metrics=server._endpoints.metrics)
    server._child = running = child(script, tmp_path, tmp_path / "log")
    try:
        assert server.wait_ready(LIMIT_S)
        with socket.create_connection(("127.0.0.1", server._endpoints.metrics), LIMIT_S):
            pass
    finally:
        running.kill()
        running.finish(LIMIT_S)


def test_metrics_that_were_switched_off_are_waited_for_in_vain() -> None:
    [closed] = choose_ports("127.0.0.1", [0])
    assert not Endpoints("127.0.0.1", 1, 2, closed).await_metrics(0.1)


def test_the_exit_code_is_the_servers_and_never_0() -> None:
    assert [_exit_code(code) for code in (3, -9, 0, None)] == [3, 137, 1, 1]


def test_serving_needs_the_standard_library_only() -> None:
    script = (
        "import sys; before = set(sys.modules); import elastriton.generator.serve, elastriton.generator.serve.health;"
        "tops = {name.partition('.')[0] for name in set(sys.modules) - before};"
        "print(sorted(tops - sys.stdlib_module_names))"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "['elastriton']"
