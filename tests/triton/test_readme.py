"""The README's code, run as it stands but for addresses and the task's name."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from elastriton.generator.cli import app
from elastriton.generator.config import load_config
from elastriton.generator.serve import Server

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def localised(code: str, server: Server) -> str:
    code = code.replace("grpc://127.0.0.1:8001", f"grpc://{server.grpc_url}")
    return (
        code.replace("127.0.0.1:8000", server.http_url.removeprefix("http://"))
        .replace("clinc150", "intent")
        .replace("please play some jazz", "hello there")
    )


def test_python_blocks(tiny_server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(blocks("python")) == 2
    for block in blocks("python"):
        exec(compile(localised(block, tiny_server), "README.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split()[0] in {"greet", "leave", "order"}
    assert re.search(r"\[\[b'(greet|leave|order)'\]\] \[\[0\]\]", printed[1])


def test_curl(tiny_server: Server) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    [command] = [block for block in blocks("sh") if block.startswith("curl")]
    run = subprocess.run(
        ["bash", "-c", localised(command, tiny_server)], capture_output=True, text=True, check=True, timeout=60
    )
    outputs = {output["name"]: output for output in json.loads(run.stdout)["outputs"]}
    assert outputs["LABEL"]["data"][0] in {"greet", "leave", "order"}
    assert len(outputs["PROBABILITIES"]["data"]) == 3


def test_the_configuration_is_valid(tmp_path: Path) -> None:
    [block] = blocks("yaml")
    (tmp_path / "elastriton.yaml").write_text(block)
    assert set(load_config(tmp_path / "elastriton.yaml").tasks) == {"imagenet", "sentiment"}


def test_every_command_is_mentioned() -> None:
    names = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    assert names == {"tune", "profile", "plan", "generate", "check", "serve", "replay", "demo"}
    for name in names:
        assert f"elastriton {name}" in README or f"make {name}" in README
