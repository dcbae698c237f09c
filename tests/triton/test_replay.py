"""`elastriton replay` against a real server: every request has an outcome, and a picture comes out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from elastriton.generator.serve import Server


def test_a_trace_is_replayed_over_grpc(tiny_server: Server, tiny_project: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "elastriton.generator.cli", "replay"]
    command += ["--config", str(tiny_project / "elastriton.yaml"), "--url", f"grpc://{tiny_server.grpc_url}"]
    command += ["--trace", "step", "--rate", "40", "--requests", "60"]
    command += ["--json", str(tmp_path / "replay.json"), "--report", str(tmp_path / "replay.png")]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "60 requests" in run.stdout
    result = json.loads((tmp_path / "replay.json").read_text())
    assert result["summary"]["requests"] == len(result["requests"]) == 60
    assert result["summary"]["failed"] == 0
    answered = [one for one in result["requests"] if one["outcome"] == "answered"]
    assert answered
    assert {one["task"] for one in answered} == {"colour", "intent"}
    assert (tmp_path / "replay.png").stat().st_size > 10_000


def test_a_trace_that_does_not_exist_is_named(tiny_project: Path) -> None:
    command = [sys.executable, "-m", "elastriton.generator.cli", "replay", "--trace", "poison"]
    command += ["--config", str(tiny_project / "elastriton.yaml")]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 1
    assert "none of poisson" in run.stderr
