"""The command line, as a user types it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

COMMANDS = ("tune", "profile", "plan", "generate", "serve", "check", "replay", "demo")


def elastriton(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "elastriton.generator.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, timeout=300)


def test_help_lists_the_commands(tmp_path: Path) -> None:
    shown = elastriton("--help", cwd=tmp_path)
    assert shown.returncode == 0
    for command in COMMANDS:
        assert command in shown.stdout
        assert elastriton(command, "--help", cwd=tmp_path).returncode == 0


def test_plan_generate_check(tmp_path: Path, tiny_project: Path, tiny_build: Path) -> None:
    config = tiny_project / "elastriton.yaml"
    planned = elastriton("plan", "-c", config, "-b", tiny_build, cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    generated = elastriton("generate", tmp_path / "repository", "-b", tiny_build, cwd=tmp_path)
    assert generated.returncode == 0, generated.stderr
    checked = elastriton("check", tmp_path / "repository", cwd=tmp_path)
    assert checked.returncode == 0
    assert "complete and consistent" in checked.stdout


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("grpc://127.0.0.1:1", "cannot be replayed: UnavailableError"),
        ("127.0.0.1:8001", "error: the url of the server: '127.0.0.1:8001' does not start with grpc:// or http://"),
    ],
)
def test_a_replay_without_a_server_says_so_at_once(tmp_path: Path, tiny_project: Path, url: str, message: str) -> None:
    options = ("--url", url, "--rate", 5, "--requests", 2000)
    failed = elastriton("replay", "-c", tiny_project / "elastriton.yaml", *options, cwd=tmp_path)
    assert failed.returncode == 1
    assert message in failed.stderr


def test_a_plan_of_another_version_is_refused(tmp_path: Path, tiny_build: Path) -> None:
    plan = json.loads((tiny_build / "plan.json").read_text())
    (tmp_path / "plan.json").write_text(json.dumps({**plan, "version": 99}))
    failed = elastriton("generate", tmp_path / "repository", "-b", tmp_path, cwd=tmp_path)
    assert failed.returncode == 1
    assert "has version 99, this release reads" in failed.stderr


def test_check_of_a_damaged_repository_exits_with_1(tmp_path: Path, tiny_repository: Path) -> None:
    (tmp_path / "model").mkdir()
    checked = elastriton("check", tmp_path, cwd=tmp_path)
    assert checked.returncode == 1
    assert "config.pbtxt is missing" in checked.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("plan", "-c", "gone.yaml"), "gone.yaml does not exist"),
        (("tune", "--task", "pets", "-c", "gone.yaml"), "gone.yaml does not exist"),
        (("generate", "repository"), "plan.json does not exist; run `elastriton plan` first"),
        (("plan", "-c", "good.yaml"), "profile.json does not exist; run `elastriton profile` first"),
        (("profile", "-c", "good.yaml", "-b", "good.yaml"), "error: good.yaml: File exists"),
        (("check", "nowhere"), "nowhere is not a folder; run `elastriton generate nowhere`"),
        (("serve", "nowhere"), "no model repository"),
        (("demo", "--directory", "nowhere"), "run the demo from a clone"),
        (("replay", "--trace", "gone.csv", "--rate", "5", "-c", "gone.yaml"), "gone.yaml does not exist"),
        (("replay", "--report", "report.txt", "-c", "gone.yaml"), "report.txt is of no known kind"),
        (("replay", "--against", "x.json", "-c", "gone.yaml"), "give --report, too"),
    ],
)
def test_our_errors_are_one_message_and_no_traceback(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    encoders, tasks = "encoders: {vit: {kind: vision, model: vit}}", "tasks: {pets: {encoder: vit, slo_ms: 100}}"
    (tmp_path / "good.yaml").write_text(f"version: 1\n{encoders}\n{tasks}\n")
    failed = elastriton(*arguments, cwd=tmp_path)
    assert failed.returncode == 1
    assert message in failed.stderr
    assert "Traceback" not in failed.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("serve", "repository", "--http-port", "70000"), "'--http-port'"),
        (("serve", "repository", "--metrics-port", "-1"), "'--metrics-port'"),
        (("replay", "--json", "."), "'--json'"),
        (("replay", "--report", "."), "'--report'"),
        (("tune", "--task", "pets", "--output", "."), "'--output'"),
        (("demo", "--json", "."), "'--json'"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_runs(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    failed = elastriton(*arguments, cwd=tmp_path)
    assert failed.returncode == 2
    assert f"Invalid value for {message}" in failed.stderr


def test_the_package_runs_as_a_module_and_tells_its_version(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "elastriton.generator", "--version"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, timeout=60)
    assert shown.stdout == f"elastriton {version('elastriton')}\n"


def test_a_profile_of_another_version_is_refused(tmp_path: Path, tiny_project: Path, tiny_build: Path) -> None:
    profile = json.loads((tiny_build / "profile.json").read_text())
    (tmp_path / "profile.json").write_text(json.dumps({**profile, "version": 99}))
    failed = elastriton("plan", "-c", tiny_project / "elastriton.yaml", "-b", tmp_path, cwd=tmp_path)
    assert failed.returncode == 1
    assert "has version 99" in failed.stderr


def test_sigterm_ends_a_command_as_ctrl_c_does() -> None:
    """So that a demo that is stopped takes its server along."""
    code = """
import time
from elastriton.generator import cli

def app():
    try:
        print("begun", flush=True)
        time.sleep(120)
    finally:
        print("cleaned up", flush=True)

cli.app = app
cli.main()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        assert command.stdout.readline() == "begun\n"
        command.terminate()
        assert command.stdout.read() == "cleaned up\n"
        assert command.wait(timeout=60) == 128 + signal.SIGTERM
