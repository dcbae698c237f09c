"""Tests of this folder start a real tritonserver: one per module, on free loopback ports."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scratch_models import write_scratch

from elastriton.generator.serve import Server

# How Triton says that it came to harm. It also writes "Signal (15) received." when it is asked to end.
HARM = re.compile(r"lock_exception|Signal \((?!15\)|2\))\d+\)|Non-graceful termination")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.triton)


@pytest.fixture(scope="module")
def serve_repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """`serve_repository(path, **options)` starts a Server over `path` and waits until it is ready; it stops by itself.

    The module fails where a server's log tells of a crash.
    """
    folder = tmp_path_factory.mktemp("server-logs")
    servers: list[Server] = []
    logs: list[Path] = []

    def serve(repository: Path, **options: object) -> Server:
        log = folder / f"{len(servers)}.log"
        server = Server(repository, log=log, **options)  # type: ignore[arg-type]  # the caller's own words
        servers.append(server)
        logs.append(log)
        server.start().wait_ready(timeout_s=180)
        return server

    try:
        yield serve
    finally:
        for server in servers:
            server.stop()
    harm = {log.name: found for log in logs if (found := HARM.findall(log.read_text(errors="replace")))}
    assert not harm, f"the server came to harm: {harm}; its logs are in {folder}"


@pytest.fixture(scope="module")
def tiny_server(serve_repository: Callable[..., Server], tiny_repository: Path) -> Server:
    """The tiny project, served."""
    return serve_repository(tiny_repository)


@pytest.fixture(params=["http", "grpc"])
def url(request: pytest.FixtureRequest, tiny_server: Server) -> str:
    """The server's URL for our client, over each protocol in turn."""
    return tiny_server.http_url if request.param == "http" else f"grpc://{tiny_server.grpc_url}"


@pytest.fixture
def scratch(tmp_path: Path) -> tuple[Path, Path]:
    """A repository and backends of a few lines each, for the tests of serving."""
    return write_scratch(tmp_path)
