"""`elastriton serve`: a server in the foreground, which a signal drains and stops."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from elastriton.generator.serve.server import Server, ServerError

_POLL_S = 0.1


def run(
    repository: Path,
    *,
    http_port: int = 8000,
    grpc_port: int = 8001,
    metrics_port: int = 8002,
    address: str = "127.0.0.1",
    tritonserver: Path | None = None,
    backend_directory: Path | None = None,
    drain_timeout_s: float = 30.0,
    extra: Sequence[str] = (),
) -> int:
    """Serve `repository` until SIGTERM or Ctrl-C; a second signal does not wait for what is in flight.

    The exit code: 0 where every request was answered, 1 where draining took too long, 128 + n after a second signal n,
    and the server's own where it ended by itself.
    """
    server = Server(
        repository,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        address=address,
        tritonserver=tritonserver,
        backend_directory=backend_directory,
        extra=extra,
    )
    signals: list[int] = []
    with _received(signals, server):
        ready = False
        try:
            server.start()
            ready = server.wait_ready(float("inf"), cancelled=lambda: bool(signals))
            if ready:
                _say(f"serving {', '.join(server.models)}")
                _say(f"{server.http_url}  grpc://{server.grpc_url}  metrics {server.metrics_url}")
            while not signals and server.poll() is None:
                time.sleep(_POLL_S)
            code = server.poll()
            if code is not None and not signals:
                raise ServerError(f"tritonserver ended by itself with code {code}\n{server.failures()}", code)
            _say(f"{signal.Signals(signals[0]).name}: draining for up to {drain_timeout_s:g} s; once more to stop now")
            clean = server.stop(drain_timeout_s if ready else 0)
        except ServerError as error:
            print(f"elastriton serve: {error}", file=sys.stderr, flush=True)
            return _exit_code(error.exit_code)
        finally:
            server.stop(drain_timeout_s=0)
    if len(signals) > 1:
        return 128 + signals[-1]
    _say("stopped" if clean else "stopped; draining did not end in time, and some requests were lost")
    return 0 if clean else 1


@contextmanager
def _received(signals: list[int], server: Server) -> Iterator[None]:
    """Collect SIGTERM and SIGINT in `signals`; the second one ends the server at once."""

    def receive(number: int, _frame: FrameType | None) -> None:
        signals.append(number)
        if len(signals) > 1:
            server.kill()

    if threading.current_thread() is not threading.main_thread():  # Python takes signals in its main thread only
        yield
        return
    before = {number: signal.signal(number, receive) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit_code(code: int | None) -> int:
    """What a shell makes of it: 128 + n after signal n; never 0, as nobody asked the server to end."""
    if code is None or code == 0:
        return 1
    return 128 - code if code < 0 else code


def _say(text: str) -> None:
    print(f"elastriton serve: {text}", flush=True)
