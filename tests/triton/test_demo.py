"""`elastriton demo` as `make demo` runs it: the real models, the real data, both protocols."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_demo_answers_rightly_over_both_protocols(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "elastriton.generator.cli", "demo"]
    options = ["--build", str(tmp_path / "build"), "--json", str(tmp_path / "demo.json")]
    run = subprocess.run([*command, *options], capture_output=True, text=True, check=False, cwd=ROOT, timeout=900)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    result = json.loads((tmp_path / "demo.json").read_text())
    for task, least in (("eurosat", 0.85), ("clinc150", 0.90)):
        figures = result["tasks"][task]
        assert figures["http"]["n"] == figures["grpc"]["n"] >= 350
        assert figures["http"]["accuracy"] >= least
        assert figures["grpc"]["accuracy"] >= least
        answered = sum(figures[phase]["n"] for phase in ("http", "grpc", "burst"))
        assert sum(figures["gammas"].values()) == answered
        assert figures["burst"]["in_flight"] >= 2 * figures["grpc"]["in_flight"]
        assert figures["burst"]["n"] + figures["burst"]["rejected"] == figures["grpc"]["n"]
    assert 0.3 < result["tasks"]["clinc150"]["early_return_rate"] < 1.0
    assert result["triton_version"] == "2.51.0"
    assert set(result["steps_s"]) == {"profile", "plan", "generate", "serve", "query", "stop"}
