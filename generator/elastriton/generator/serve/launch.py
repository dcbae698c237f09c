"""What a tritonserver is started with: the command line, the environment, the ports."""

from __future__ import annotations

import errno
import itertools
import os
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from elastriton.core.errors import ConfigError
from elastriton.generator.serve.embedded import TritonServer

_POLL_S = 0.01
_OF_THE_PORT = (errno.EADDRINUSE, errno.EACCES)
EXIT_TIMEOUT_S = 5  # after a drain only idle connections are left, and Triton waits for those


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where a server listens."""

    address: str
    http: int
    grpc: int
    metrics: int

    @property
    def host(self) -> str:
        """The address to reach it at from this machine, as it stands in a URL."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.address, self.address)
        return f"[{host}]" if ":" in host else host

    def await_metrics(self, timeout_s: float) -> bool:
        """Wait for the metrics port to open; whether it did within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                socket.create_connection((self.host.strip("[]"), self.metrics), timeout_s).close()
            except OSError:
                time.sleep(_POLL_S)
            else:
                return True
        return False


def command(binary: Path, repository: Path, backends: Path, endpoints: Endpoints, shm_prefix: str) -> list[str]:
    """The command line of a server over `repository`."""
    options = {
        "model-repository": repository,
        "backend-directory": backends,
        "model-control-mode": "explicit",  # draining, and recovering from a dead stub, unload and load
        "load-model": "*",
        "http-address": endpoints.address,
        "http-port": endpoints.http,
        "grpc-address": endpoints.address,
        "grpc-port": endpoints.grpc,
        "metrics-address": endpoints.address,
        "metrics-port": endpoints.metrics,
        "exit-timeout-secs": EXIT_TIMEOUT_S,
    }
    python = {  # `python` also stands for the backends made with it, ours
        "thread-pool-size": 64,  # calls between models in flight, per stub
        "shm-default-byte-size": 16 << 20,
        "shm-region-prefix-name": shm_prefix,
    }
    arguments = itertools.chain.from_iterable((f"--{name}", str(value)) for name, value in options.items())
    settings = (f"--backend-config=python,{name}={value}" for name, value in python.items())
    return [str(binary), *arguments, "--disable-auto-complete-config", *settings]


def environment(server: TritonServer, libpython: Path | None, folder: Path) -> dict[str, str]:
    """A stub finds its Python by `python3` on PATH, and libpython and the wheel's libraries by LD_LIBRARY_PATH.

    `folder` is made to hold libpython alone: beside it may lie other libraries, and Triton must not take those.
    """
    variables = dict(os.environ)
    here = str(Path(sys.executable).parent)  # not resolved: in a virtual environment that would leave it
    variables["PATH"] = os.pathsep.join([here, variables.get("PATH", os.defpath)])
    paths = []
    if libpython is not None:
        folder.mkdir()
        (folder / libpython.name).symlink_to(libpython)
        paths.append(str(folder))
    if server.libraries is not None:
        paths.append(str(server.libraries))
    if variables.get("LD_LIBRARY_PATH"):
        paths.append(variables["LD_LIBRARY_PATH"])
    if paths:
        variables["LD_LIBRARY_PATH"] = os.pathsep.join(paths)
    return variables


def choose_ports(address: str, ports: Sequence[int]) -> list[int]:
    """`ports`, each of them free now; 0 takes any. Raises ConfigError for one in use, or an `address` not of here."""
    with ExitStack() as held:  # all are held until the last is found, so that no two are the same

        def take(port: int) -> int:
            listener = held.enter_context(socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that ended just now is no obstacle
            if port:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # nor one with --reuse-http-port
            try:
                listener.bind((address, port))
                listener.listen()
            except OSError as error:
                other = "port" if error.errno in _OF_THE_PORT else "--address, one of this machine's"
                said = f"cannot listen on {address}:{port}: {error.strerror}"
                raise ConfigError(f"{said}\nhelp: another {other}") from None
            return int(listener.getsockname()[1])

        return [take(port) for port in ports]
