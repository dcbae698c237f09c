"""Run a tritonserver over a repository, as a child process."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from elastriton.core.errors import ConfigError, ElastritonError
from elastriton.generator.serve.backends import assemble, find_backends
from elastriton.generator.serve.drain import drain
from elastriton.generator.serve.embedded import find_libpython, find_tritonserver
from elastriton.generator.serve.launch import EXIT_TIMEOUT_S, Endpoints, choose_ports, command, environment
from elastriton.generator.serve.process import Child
from elastriton.generator.serve.rest import Rest

KILL_AFTER_S = EXIT_TIMEOUT_S + 5.0
SHM = Path("/dev/shm")
_POLL_S = 0.05
_METRICS_TIMEOUT_S = 5.0  # a metrics port that is still closed by then was switched off


class ServerError(ElastritonError):
    """The server did not start, or ended by itself; the text has what its log says, `exit_code` what it ended with."""

    def __init__(self, text: str, exit_code: int | None = None) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class Server:
    """A tritonserver over `repository`, with our backends; port 0 takes a free one.

    with Server(repository, log=Path("server.log")) as server:    # started and ready here
        ...                                                       # drained and stopped afterwards
    """

    def __init__(
        self,
        repository: Path,
        *,
        http_port: int = 0,
        grpc_port: int = 0,
        metrics_port: int = 0,
        address: str = "127.0.0.1",
        tritonserver: Path | None = None,
        backend_directory: Path | None = None,
        extra: Sequence[str] = (),
        log: Path | None = None,
    ) -> None:
        self.repository = repository.resolve()
        self.models = _models(self.repository)
        self._triton = find_tritonserver(tritonserver)
        self._libpython = find_libpython(self._triton)
        self._ours = find_backends(backend_directory)
        self._endpoints = Endpoints(address, *choose_ports(address, [http_port, grpc_port, metrics_port]))
        self._extra = tuple(extra)
        self._log = log
        self._shm_prefix = f"elastriton_{os.getpid()}_{secrets.token_hex(4)}_"
        self._folder: Path | None = None
        self._child: Child | None = None

    @property
    def http_url(self) -> str:
        return f"http://{self._endpoints.host}:{self._endpoints.http}"

    @property
    def grpc_url(self) -> str:
        return f"{self._endpoints.host}:{self._endpoints.grpc}"

    @property
    def metrics_url(self) -> str:
        return f"http://{self._endpoints.host}:{self._endpoints.metrics}/metrics"

    @property
    def version(self) -> str:
        """What the running server says its version is."""
        return Rest(self.http_url).version()

    @property
    def pid(self) -> int:
        return self._running().pid

    def start(self) -> Server:
        """Start the process; it is ready later."""
        if self._child is not None:
            raise ServerError("this server was started before")
        folder = self._folder = Path(tempfile.mkdtemp(prefix="elastriton-serve-"))
        neutral = folder / "cwd"  # the working directory comes first on a stub's sys.path: a model.py there would win
        neutral.mkdir()
        backends = assemble(self._triton, self._ours, folder / "backends")
        arguments = command(self._triton.binary, self.repository, backends, self._endpoints, self._shm_prefix)
        variables = environment(self._triton, self._libpython, folder / "lib")
        self._child = Child([*arguments, *self._extra], variables, neutral, self._log)
        return self

    def wait_ready(self, timeout_s: float = 120.0, cancelled: Callable[[], bool] = lambda: False) -> bool:
        """Wait until every model is ready and every port open; False where `cancelled` said so first.

        Raises ServerError.
        """
        child, rest, deadline = self._running(), Rest(self.http_url), time.monotonic() + timeout_s
        while not cancelled():
            if (code := child.poll()) is not None:
                raise ServerError(f"tritonserver ended with code {code} before it was ready\n{child.failures()}", code)
            if rest.ready():  # Triton opens its ports in the order gRPC, HTTP, metrics
                self._endpoints.await_metrics(min(_METRICS_TIMEOUT_S, deadline - time.monotonic()))
                return True
            if time.monotonic() >= deadline:
                raise ServerError(f"tritonserver is not ready after {timeout_s:g} s\n{child.failures()}")
            time.sleep(_POLL_S)
        return False

    def poll(self) -> int | None:
        """The exit code of a server that ended, negative for a signal; None while it runs."""
        return self._running().poll()

    def stop(self, drain_timeout_s: float = 30.0) -> bool:
        """Drain, SIGTERM, SIGKILL after a while; True when all was answered, and no SIGKILL needed."""
        if self._folder is None:
            return True
        drained, code = True, 0
        if self._child is not None:
            drained = self._child.poll() is None and (drain_timeout_s <= 0 or drain(self.http_url, drain_timeout_s))
            code = self._child.finish(KILL_AFTER_S)
        for region in SHM.glob(f"{self._shm_prefix}*"):
            region.unlink(missing_ok=True)
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = None
        return drained and code >= 0

    def kill(self) -> None:
        """End the server now, whatever is in flight; `stop` still has to tidy up."""
        if self._child is not None:
            self._child.kill()

    def failures(self) -> str:
        """What the log says went wrong."""
        return self._running().failures()

    def __enter__(self) -> Server:
        try:
            self.start().wait_ready()
        except BaseException:
            self.stop(drain_timeout_s=0)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _running(self) -> Child:
        if self._child is None:
            raise ServerError("this server was not started")
        return self._child


def _models(repository: Path) -> list[str]:
    models = sorted(config.parent.name for config in repository.glob("*/config.pbtxt"))
    if not models:
        raise ConfigError(
            f"{repository} is no model repository: it has no MODEL/config.pbtxt\nhelp: elastriton generate writes one"
        )
    return models
