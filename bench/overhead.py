"""What serving costs: throughput through Triton ÷ throughput of the bare executor, both saturated, side by side.

Both run the demo's vision encoder at level 0 with batches of up to 32 on the same cores, in turns. The bare executor
is given pixels; the served path also decodes JPEGs, queues, schedules, crosses five processes, and shares the cores
with the client that loads it. A third figure adds the decoding to the bare executor, to tell the two apart.

    make demo && python bench/overhead.py        (about 2 minutes; writes bench/results/overhead.json)
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from spread import ratios, spread

from elastriton.client import Answer, Client
from elastriton.core.plan import PLAN_FILE, ExecutorPlan, Plan
from elastriton.core.profile import ImageSpec
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
    images = (images * (arguments.samples // len(images) + 1))[: arguments.samples]
    executor = load_executor(executor_of(plan), arguments.build)
    image = plan.decoders[f"{TASK}_decode"].image
    with tempfile.TemporaryDirectory() as folder:
        generate(only_level(plan, 0), arguments.build, Path(folder) / "repository")
        with Server(Path(folder) / "repository", log=Path(folder) / "log") as server:
            figures = take_turns(
                arguments.rounds,
                {
                    "bare": lambda: bare(executor, image, images, decode=False),
                    "bare_with_decoding": lambda: bare(executor, image, images, decode=True),
                    "triton": lambda: closed_loop(f"grpc://{server.grpc_url}", images),
                },
            )
            version = server.version
    result = {
        "samples_per_s": {name: spread(values) for name, values in figures.items()},
        "triton_over_bare": spread(ratios(figures["triton"], figures["bare"])),
        "rounds": arguments.rounds,
        "samples_per_round": arguments.samples,
        "in_flight": IN_FLIGHT,
        "gamma": 0,
        "max_batch": executor.max_batch,
        "triton_version": version,
        "machine": asdict(this_machine()),
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: result[key] for key in ("samples_per_s", "triton_over_bare")}, indent=1))


def executor_of(plan: Plan) -> ExecutorPlan:
    """The executor of the task."""
    return plan.executors[f"{plan.tasks[TASK].scheduler.removesuffix('_scheduler')}_executor"]


def only_level(plan: Plan, gamma: int) -> Plan:
    """The plan with one level alone and no other deadline than a minute, so that both sides do the same work."""
    schedulers = {}
    for name, scheduler in plan.schedulers.items():
        tasks = {
            task: replace(part, slo_ms=SLO_MS, accuracy=tuple(point for point in part.accuracy if point.gamma == gamma))
            for task, part in scheduler.tasks.items()
        }
        cells = tuple(cell for cell in scheduler.latency if cell.gamma == gamma)
        schedulers[name] = replace(scheduler, tasks=tasks, latency=cells, grace_s=120.0)
    decoders = {name: replace(decoder, slo_ms=SLO_MS) for name, decoder in plan.decoders.items()}
    return replace(plan, schedulers=schedulers, decoders=decoders)


def bare(executor: ElasticExecutor, spec: ImageSpec, images: list[bytes], *, decode: bool) -> float:
    """Samples per second of the executor in this process at level 0, in full batches."""
    pixels = [] if decode else [decode_image(image, spec) for image in images]
    started_s = time.perf_counter()
    for start in range(0, len(images), executor.max_batch):
        if decode:
            pixels[start:] = [decode_image(image, spec) for image in images[start : start + executor.max_batch]]
        batch = np.stack(pixels[start : start + executor.max_batch])
        executor.logits({"pixels": batch}, [TASK] * len(batch), 0)
    return len(images) / (time.perf_counter() - started_s)


def closed_loop(url: str, images: list[bytes]) -> float:
    """Samples per second through the ensemble, with enough in flight to keep the executor busy."""
    with Client(url, timeout_s=120.0, max_in_flight=IN_FLIGHT) as client:
        client.classify(TASK, images=images[:1])  # a connection's first request is slow
        started_s = time.perf_counter()
        outcomes = client.classify(TASK, images=images, slo_ms=SLO_MS, return_errors=True)
        per_s = len(images) / (time.perf_counter() - started_s)
    alike([type(outcome) for outcome in outcomes], Answer)
    return per_s


def alike(outcomes: Sequence[object], expected: object) -> None:
    """Raise RuntimeError unless all requests ended as they should: answered, or rejected."""
    others = [outcome for outcome in outcomes if outcome != expected]
    if others:
        raise RuntimeError(f"{len(others)} of {len(outcomes)} requests should be {expected}: {others[0]}")


def take_turns(rounds: int, measures: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Run every measure once per round, after one round that does not count."""
    figures: dict[str, list[float]] = {name: [] for name in measures}
    for turn in range(rounds + 1):
        for name, measure in measures.items():
            value = measure()
            if turn > 0:
                figures[name].append(value)
    return figures


if __name__ == "__main__":
    main()
