"""What serving costs: throughput through Triton ÷ throughput of the bare executor, both saturated, side by side.

Both run the demo's vision encoder at level 0 with batches of up to 32 on the same cores, in turns. The bare executor
is given pixels; the served path also decodes JPEGs, queues, schedules, crosses five processes, and shares the cores
with the client that loads it. A third figure adds the decoding to the bare executor, to tell the two apart.

    make demo && python bench/overhead.py        (about 2 minutes; writes bench/results/overhead.json)
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import psutil

from elastriton.client import Client
from elastriton.core.plan import PLAN_FILE, DecoderPlan, ExecutorPlan, Plan
from elastriton.core.records import load
from elastriton.generator.config import load_config
from elastriton.generator.data import load_data
from elastriton.generator.machine import this_machine
from elastriton.generator.repository import generate
from elastriton.generator.serve import Server
from elastriton.runtime.executor import ElasticExecutor, load_executor
from elastriton.runtime.images import decode_image

ROOT = Path(__file__).parents[1]
TASK = "eurosat"
IN_FLIGHT = 96
SLO_MS = 60_000.0


def main() -> None:
    """Measure in turns, write the result, print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=ROOT / "build/demo")
    parser.add_argument("--output", type=Path, default=ROOT / "bench/results/overhead.json")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--samples", type=int, default=700, help="samples per turn")
    arguments = parser.parse_args()
    plan = load(Plan, arguments.build / PLAN_FILE)
    config = load_config(ROOT / "examples/demo/elastriton.yaml").tasks[TASK]
    assert config.data is not None
    images = list(load_data(ROOT / "examples/demo" / config.data.path).images)
    figures, version = measure(plan, arguments.build, images, arguments.samples, arguments.rounds)
    outside_ms = figures.pop("host_ms")
    ratios = [triton / bare for triton, bare in zip(figures["triton"], figures["bare"], strict=True)]
    result = {
        "samples_per_s": {name: spread(values) for name, values in figures.items()},
        "triton_over_bare": spread(ratios),
        "host_ms": spread(outside_ms),
        "rounds": arguments.rounds,
        "samples_per_round": arguments.samples,
        "in_flight": IN_FLIGHT,
        "gamma": 0,
        "max_batch": executor_of(plan).max_batch,
        "triton_version": version,
        "machine": asdict(this_machine()),
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: result[key] for key in ("samples_per_s", "triton_over_bare")}, indent=1))


def measure(
    plan: Plan, build: Path, images: list[bytes], samples: int, rounds: int
) -> tuple[dict[str, list[float]], str]:
    """Samples per second and `host_ms`, round by round, and the server's version."""
    images = (images * (samples // len(images) + 1))[:samples]
    executor = load_executor(executor_of(plan), build)
    decoder = plan.decoders[f"{TASK}_decode"]
    with saturable(plan, build) as (server, client):
        figures = take_turns(
            rounds,
            {
                "bare": lambda: bare(executor, decoder, images, decode=False),
                "bare_with_decoding": lambda: bare(executor, decoder, images, decode=True),
                "triton": lambda: served(client, images),
                "host_ms": lambda: host_ms(client, images),
            },
        )
        return figures, server.version


@contextmanager
def saturable(plan: Plan, build: Path) -> Iterator[tuple[Server, Client]]:
    """A server of level 0 alone that rejects nothing, and a client that keeps enough requests in flight."""
    with tempfile.TemporaryDirectory() as folder:
        generate(only_plain(plan), build, Path(folder) / "repository")
        with (
            Server(Path(folder) / "repository", log=Path(folder) / "log") as server,
            Client(f"grpc://{server.grpc_url}", timeout_s=120.0, max_in_flight=IN_FLIGHT) as client,
        ):
            yield server, client


def host_ms(client: Client, images: list[bytes]) -> float:
    """What a request takes outside of the encoder, of the whole machine: processor time / (cores x requests).

    Of this process, Triton's, and all stubs but the executor's.
    """
    before_s = _host_cpu_s()
    client.classify(TASK, images=images)
    return 1000.0 * (_host_cpu_s() - before_s) / (len(images) * (os.cpu_count() or 1))


def _host_cpu_s() -> float:
    own = psutil.Process()
    others = (one for one in own.children(recursive=True) if not any("_executor" in word for word in one.cmdline()))
    return sum(sum(one.cpu_times()[:2]) for one in (own, *others))


def executor_of(plan: Plan) -> ExecutorPlan:
    """The executor of the task."""
    return plan.executors[f"{plan.tasks[TASK].scheduler.removesuffix('_scheduler')}_executor"]


def only_plain(plan: Plan) -> Plan:
    """The plan with level 0 alone and no other deadline than a minute, so that both sides do the same work."""
    schedulers = {}
    for name, scheduler in plan.schedulers.items():
        tasks = {
            task: replace(part, slo_ms=SLO_MS, accuracy=tuple(point for point in part.accuracy if point.gamma == 0))
            for task, part in scheduler.tasks.items()
        }
        cells = tuple(cell for cell in scheduler.latency if cell.gamma == 0)
        schedulers[name] = replace(scheduler, tasks=tasks, latency=cells, grace_s=120.0)
    return replace(plan, schedulers=schedulers)


def bare(executor: ElasticExecutor, decoder: DecoderPlan, images: list[bytes], *, decode: bool) -> float:
    """Samples per second of the executor in this process, in full batches."""
    pixels = [] if decode else [decode_image(image, decoder) for image in images]
    started_s = time.perf_counter()
    for start in range(0, len(images), executor.max_batch):
        if decode:
            pixels[start:] = [decode_image(image, decoder) for image in images[start : start + executor.max_batch]]
        batch = np.stack(pixels[start : start + executor.max_batch])
        executor.logits({"pixels": batch}, [TASK] * len(batch), 0)
    return len(images) / (time.perf_counter() - started_s)


def served(client: Client, images: list[bytes]) -> float:
    """Samples per second through the ensemble, with enough in flight to keep the executor busy."""
    started_s = time.perf_counter()
    client.classify(TASK, images=images)
    return len(images) / (time.perf_counter() - started_s)


def take_turns(rounds: int, measures: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Run every measure once per round, after one round that does not count."""
    figures: dict[str, list[float]] = {name: [] for name in measures}
    for turn in range(rounds + 1):
        for name, measure in measures.items():
            value = measure()
            if turn > 0:
                figures[name].append(value)
    return figures


def spread(values: list[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {"median": round(statistics.median(values), 3), "low": round(min(values), 3), "high": round(max(values), 3)}


if __name__ == "__main__":
    main()
