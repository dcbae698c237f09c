"""docker-compose.yml and the Dockerfile, without a Docker engine: what must hold, and Compose's own check."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from elastriton.generator.serve import run
from elastriton.generator.serve.health import main as health
from elastriton.generator.serve.server import KILL_AFTER_S

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SERVICE: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]["triton"]


def seconds(duration: str) -> float:
    match = re.fullmatch(r"(?:(\d+)m)?(?:(\d+)s)?", duration)
    assert match, duration
    return 60 * int(match.group(1) or 0) + int(match.group(2) or 0)


def test_ports_are_open_to_this_machine_only() -> None:
    assert SERVICE["ports"] == [f"127.0.0.1:{port}:{port}" for port in (8000, 8001, 8002)]
    assert SERVICE.get("network_mode") is None


def test_triton_is_pinned_at_26_04_or_later() -> None:
    (default,) = re.findall(r"^ARG TRITON=(\S+)$", DOCKERFILE, re.MULTILINE)
    (base,) = re.findall(r"^FROM (\S+)$", DOCKERFILE, re.MULTILINE)
    assert base == "nvcr.io/nvidia/tritonserver:${TRITON}-py3"
    for release in (default, SERVICE["build"]["args"]["TRITON"]):
        assert re.fullmatch(r"\d\d\.\d\d", release)
        assert tuple(map(int, release.split("."))) >= (26, 4)
    assert SERVICE["build"]["args"]["TRITON"] in SERVICE["image"], "the image's tag says which Triton it has"
    assert ":latest" not in DOCKERFILE + COMPOSE.read_text()


def test_the_repository_is_mounted_read_only_where_the_command_looks() -> None:
    (mount,) = SERVICE["volumes"]
    assert mount["read_only"] is True
    assert mount["target"] == command()[2]


def test_stopping_is_given_the_time_to_drain() -> None:
    assert run.__kwdefaults__ is not None
    drain_s = run.__kwdefaults__["drain_timeout_s"]
    assert "--drain-timeout-s" not in command(), "else this test must read it"
    assert seconds(SERVICE["stop_grace_period"]) >= drain_s + KILL_AFTER_S + 5
    assert SERVICE["init"] is True


def test_the_health_check_is_a_real_inference(monkeypatch: pytest.MonkeyPatch) -> None:
    test = SERVICE["healthcheck"]["test"]
    assert test[:4] == ["CMD", "python3", "-m", "elastriton.generator.serve.health"]
    asked: list[str] = []

    def check(url: str, *_: object) -> dict[str, str]:
        asked.append(url)
        return {"task": ""}

    monkeypatch.setattr("elastriton.generator.serve.health.check", check)
    assert health(test[4:]) == 0
    assert asked == ["http://127.0.0.1:8000"]
    assert seconds(SERVICE["healthcheck"]["start_period"]) >= 60


def test_the_container_has_few_rights() -> None:
    assert SERVICE["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in SERVICE["security_opt"]
    assert SERVICE["read_only"] is True
    assert any(mount.startswith("/tmp:") for mount in SERVICE["tmpfs"])
    assert "privileged" not in SERVICE
    users = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)
    assert users[-1:] == ["1000:1000"]


def test_shared_memory_has_room() -> None:
    assert SERVICE["shm_size"] == "2gb", "Docker gives 64 MB"


def test_it_comes_back_after_a_crash() -> None:
    assert SERVICE["restart"] == "unless-stopped"


def command() -> list[str]:
    assert "command" not in SERVICE
    assert "entrypoint" not in SERVICE
    (line,) = re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    words: list[str] = ast.literal_eval(line)  # in the form of a list: a shell would keep SIGTERM for itself
    return words


def test_the_command_serves_to_the_outside_of_the_container() -> None:
    words = command()
    assert words[:2] == ["elastriton", "serve"]
    assert words[words.index("--address") + 1] == "0.0.0.0"


def test_what_the_dockerfile_copies_exists_and_is_in_the_context() -> None:
    copied = [
        word.rstrip("/") for line in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE) for word in line.split()
    ]
    context = {
        line[1:].rstrip("/") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }
    assert set(copied) == context
    assert [name for name in copied if not (ROOT / name).exists()] == []


def test_the_extras_exist() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    (extras,) = re.findall(r"^ARG EXTRAS=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert SERVICE["build"]["args"]["EXTRAS"] == f"${{EXTRAS:-{extras}}}"
    named = {extra for listed in re.findall(r"generator,[a-z,-]+", COMPOSE.read_text()) for extra in listed.split(",")}
    assert named == {*extras.split(","), "runtime-gpu", "torch"}
    assert [extra for extra in named if not re.search(rf"^{extra} = \[", project, re.MULTILINE)] == []


def test_compose_accepts_it() -> None:
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("no docker-compose on PATH (Debian: apt-get install docker-compose; it needs no engine for this)")
    shown = subprocess.run([program, "-f", str(COMPOSE), "config", "-q"], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
