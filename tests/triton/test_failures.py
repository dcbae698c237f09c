"""When a part dies or stalls: every request still gets its one answer or error, and the rest goes on."""

from __future__ import annotations

import re
import signal
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from elastriton.client import Answer, Client, UnavailableError
from elastriton.core.plan import Plan
from elastriton.core.records import load
from elastriton.generator.repository import generate
from elastriton.generator.serve import Server

WITHIN_S = 4.0


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, tiny_build: Path, serve_repository: Callable[..., Server]
) -> Server:
    """The tiny project with an impatient watchdog, joint plans, and a cascade that never trusts its small model."""
    plan = load(Plan, tiny_build / "plan.json")
    schedulers = {name: replace(part, grace_s=WITHIN_S, policy="joint") for name, part in plan.schedulers.items()}
    cascades = {
        name: replace(part, small=tuple(replace(one, threshold=1.1) for one in part.small))
        for name, part in plan.cascades.items()
    }
    repository = tmp_path_factory.mktemp("impatient") / "repository"
    generate(replace(plan, schedulers=schedulers, cascades=cascades), tiny_build, repository)
    return serve_repository(repository)


def stubs(server: Server, model: str) -> list[psutil.Process]:
    """The processes of one model of this very server, one for each instance."""
    children = psutil.Process(server.pid).children(recursive=True)
    found = [child for child in children if any(f"/{model}/" in part for part in child.cmdline())]
    assert found, f"no process serves {model}"
    return found


def test_unsure_texts_reach_the_large_model(server: Server) -> None:
    with Client(f"grpc://{server.grpc_url}", timeout_s=60.0) as client:
        assert {answer.level for answer in client.classify("intent", texts=["hello", "bye", "two tea"])} == {1}


def test_a_deadline_without_time_for_the_large_model_gets_the_small_one_s_answer(server: Server) -> None:
    with Client(f"grpc://{server.grpc_url}", timeout_s=60.0) as client:
        [answer] = client.classify("intent", texts=["hello there"], slo_ms=0.5)
    assert (answer.level, answer.gamma, answer.fallback) == (0, 0, True)


def test_a_dead_executor_is_an_error_not_silence_and_a_reload_brings_it_back(server: Server, make_jpeg: Any) -> None:
    pool = stubs(server, "vit_executor")
    with Client(f"grpc://{server.grpc_url}", timeout_s=60.0) as client:
        for executor in pool:
            executor.send_signal(signal.SIGSTOP)  # so that requests are in flight when it dies
        outcomes = client.classify("colour", images=[make_jpeg("red")] * 6, slo_ms=600_000, return_errors=True)
        for executor in pool:
            executor.kill()
        assert {type(outcome) for outcome in outcomes} == {UnavailableError}
        assert re.search("may be dead|not healthy", str(outcomes[0]))
        assert [answer.label for answer in client.classify("intent", texts=["hello"])], "other encoders are untouched"

        for verb in ("unload", "load"):
            url = f"{server.http_url}/v2/repository/models/vit_executor/{verb}"
            urllib.request.urlopen(urllib.request.Request(url, data=b"{}"), timeout=60).close()
        deadline_s = time.monotonic() + 60.0
        while time.monotonic() < deadline_s:
            [answer] = client.classify("colour", images=[make_jpeg("red")], return_errors=True)
            if isinstance(answer, Answer):
                return
            time.sleep(0.5)
        pytest.fail(f"the executor was loaded again, but is not used: {answer}")
