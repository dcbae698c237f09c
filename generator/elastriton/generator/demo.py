"""`elastriton demo`: from weights and data on disk to answered requests, every step a real one, timed.

profile ─► plan ─► generate ─► check ─► serve ─► query over HTTP and gRPC ─► stop
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from elastriton.client import Answer, Client, RejectedError
from elastriton.core.errors import ConfigError, ElastritonError
from elastriton.core.latency import LatencyTable
from elastriton.core.plan import PLAN_FILE, Plan
from elastriton.core.records import dumps
from elastriton.core.statistics import percentile_ms
from elastriton.generator.check import check
from elastriton.generator.config import Config, load_config
from elastriton.generator.data import Labelled, load_data
from elastriton.generator.goals import plan_for
from elastriton.generator.machine import this_machine
from elastriton.generator.profiler import profile
from elastriton.generator.repository import generate
from elastriton.generator.serve import Server
from elastriton.generator.show import console, show_plan, show_profile, steps

CONFIG_FILE = "elastriton.yaml"
IN_FLIGHT = 8
BURST = 0.6  # of a deadline: what all that is in flight would take at level 0, in the best batches and bare
CALM_SLO_MS = 10_000.0
MAX_QUERIES = 500
CELL_S = 0.15


def run(directory: Path, build: Path, json_file: Path | None) -> None:
    """Run the demo; raises ConfigError where its files are missing, and ElastritonError where a step fails."""
    if not (directory / CONFIG_FILE).is_file():
        raise ConfigError(f"{directory / CONFIG_FILE} does not exist; run the demo from a clone, or pass --directory")
    steps_s: dict[str, float] = {}
    build.mkdir(parents=True, exist_ok=True)
    repository = build / "repository"
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
    }
    _show(tasks, steps_s)
    if json_file is not None:
        json_file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _query(name: str, plan: Plan, settings: Config, directory: Path, server: Server) -> dict[str, Any]:
    """Send the samples that the profile has not seen: calmly over both protocols, then all at once.

    In the burst, deadlines get tight: the scheduler answers with faster levels, and rejects what it cannot answer.
    """
    config = settings.tasks[name].data
    if config is None:
        raise ConfigError(f"task {name} of the demo has no data")
    data = load_data(directory / config.path).part(config.samples, config.samples + MAX_QUERIES)
    result: dict[str, Any] = {}
    everything: list[Answer] = []
    for phase, url, in_flight, slo_ms in (
        ("http", server.http_url, IN_FLIGHT, CALM_SLO_MS),
        ("grpc", f"grpc://{server.grpc_url}", IN_FLIGHT, CALM_SLO_MS),
        ("burst", f"grpc://{server.grpc_url}", _in_burst(plan, name), None),
    ):
        with Client(url, timeout_s=60.0, max_in_flight=in_flight) as client:
            _ask(client, name, data.part(0, 2 * IN_FLIGHT), CALM_SLO_MS)  # the first requests of a path are slow
            outcomes = _ask(client, name, data, slo_ms)
        result[phase] = {"in_flight": in_flight, **_figures(outcomes, data.labels)}
        everything += [outcome for outcome in outcomes if isinstance(outcome, Answer)]
    result["gammas"] = _by_level(everything)
    if plan.tasks[name].kind == "text":
        result["early_return_rate"] = round(
            sum(answer.level == 0 and not answer.fallback for answer in everything) / len(everything), 4
        )
    return result


def _in_burst(plan: Plan, task: str) -> int:
    """So many requests at once that their deadlines are tight on this machine."""
    scheduler = plan.schedulers[plan.tasks[task].scheduler]
    table = LatencyTable(scheduler.latency)
    each_ms = float(table.all_costs_ms(table.lengths[-1])[table.gammas.index(0)])
    return max(2 * IN_FLIGHT, round(BURST * scheduler.tasks[task].slo_ms / each_ms))


def _ask(client: Client, task: str, data: Labelled, slo_ms: float | None) -> list[Answer | RejectedError]:
    """The answers to all samples, and the rejections. Raises ElastritonError for the first other error."""
    texts = data.sent_texts or None
    outcomes = client.classify(task, images=data.images or None, texts=texts, slo_ms=slo_ms, return_errors=True)
    for outcome in outcomes:
        if not isinstance(outcome, Answer | RejectedError):
            raise ElastritonError(f"task {task} was not answered: {type(outcome).__name__}: {outcome}") from outcome
    return [outcome for outcome in outcomes if isinstance(outcome, Answer | RejectedError)]


def _figures(outcomes: Sequence[Answer | RejectedError], labels: Sequence[str]) -> dict[str, Any]:
    """How many were answered, how rightly, how fast, and at which levels."""
    pairs = [(one, label) for one, label in zip(outcomes, labels, strict=True) if isinstance(one, Answer)]
    latencies_s = [answer.latency_ms / 1000.0 for answer, _ in pairs] or [0.0]
    return {
        "n": len(pairs),
        "accuracy": round(sum(answer.label == label for answer, label in pairs) / max(1, len(pairs)), 4),
        "p50_ms": round(percentile_ms(latencies_s, 50), 2),
        "p99_ms": round(percentile_ms(latencies_s, 99), 2),
        "rejected": len(outcomes) - len(pairs),
        "gammas": _by_level([answer for answer, _ in pairs]),
    }


def _by_level(answers: Sequence[Answer]) -> dict[str, int]:
    return {str(gamma): count for gamma, count in sorted(Counter(answer.gamma for answer in answers).items())}


def _show(tasks: dict[str, dict[str, Any]], steps_s: dict[str, float]) -> None:
    bursts = ", ".join(f"{name} {figures['burst']['in_flight']}" for name, figures in tasks.items())
    title = f"answered by Triton: {IN_FLIGHT} requests in flight; in the burst, with deadlines: {bursts}"
    table = Table(title=title, title_justify="left")
    for column in ("task", "phase", "n", "rejected", "accuracy", "p50 ms", "p99 ms", "samples by level"):
        table.add_column(column, justify="left" if column in {"task", "phase", "samples by level"} else "right")
    for name, figures in tasks.items():
        for phase in ("http", "grpc", "burst"):
            one = figures[phase]
            gammas = ", ".join(f"{gamma}: {count}" for gamma, count in one["gammas"].items())
            row = (str(one["n"]), str(one["rejected"]), f"{one['accuracy']:.1%}", f"{one['p50_ms']:.1f}")
            table.add_row(name, phase, *row, f"{one['p99_ms']:.1f}", gammas)
    console.print(table)
    for name, figures in tasks.items():
        if "early_return_rate" in figures:
            console.print(f"{name}: {figures['early_return_rate']:.0%} answered by the small model")
    console.print("seconds: " + ", ".join(f"{name} {seconds:.1f}" for name, seconds in steps_s.items()))


@contextmanager
def _timed(step: str, steps_s: dict[str, float]) -> Iterator[None]:
    started_s = time.monotonic()
    yield
    steps_s[step] = time.monotonic() - started_s
    console.print(f"[bold]{step}[/bold]: {steps_s[step]:.1f} s")
