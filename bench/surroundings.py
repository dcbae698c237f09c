"""What serving takes of the machine beside the encoder, measured a moment before it is simulated.

Requests meet a server of level 0 alone, and are sent as bench/live.py's are.

- `host_ms`: what a request takes of the whole machine (client, transport, decoding, answer): the time per request of a
  burst whose deadlines are so short that the scheduler rejects them all.
- `late_ms`: the same of requests that say when they were sent, so that decoders know they are late and turn them away.
- `calm_ms`: what a rejected request takes where nothing else is under way, of processor time: every thread on its way
  is woken for it alone, on cores that have slept.
- `call_ms`: how much longer one sample takes through the scheduler and a call between models than bare.
- `slower`: the factor on the profile's times of the encoder with which a simulated burst is answered as fast as a
  measured one: encoder and requests share caches and memory, and all of them the machine with neighbours.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from statistics import median

import psutil
from overhead import SLO_MS, TASK, alike, executor_of, only_level, take_turns
from setting import SURROUNDINGS, Setting, Task
from simulator import simulate

from elastriton.client import Client
from elastriton.core.joint import Joint
from elastriton.core.plan import Plan
from elastriton.core.profile import ImageSpec
from elastriton.generator.loads import make_load
from elastriton.generator.replay import Sample, Sent, replay
from elastriton.generator.repository import generate
from elastriton.generator.serve import Server
from elastriton.runtime.executor import ElasticExecutor, load_executor
from elastriton.runtime.images import decode_image

HOPELESS_MS = 0.5  # less than any level takes, and than any request is under way
SATURATING_PER_S = 5000.0  # more than the server turns away, however small the encoder
CALM_PER_S, CALM_REQUESTS = 100.0, 200
SINGLES = 70
SLOWEST, STEPS = 8.0, 12


def surrounded(setting: Setting, plan: Plan, build: Path, images: list[bytes], rounds: int) -> Setting:
    """The setting with its SURROUNDINGS as they are now: medians over rounds."""
    figures = measured(plan, build, images, rounds)
    host_ms, calm_ms, late_ms, call_ms = (max(0.0, median(figures[name])) for name in SURROUNDINGS[:-1])
    there = replace(setting, host_ms=host_ms, calm_ms=calm_ms, late_ms=late_ms, call_ms=call_ms)
    return replace(there, slower=slowed(there, len(images), median(figures["burst_s"])))


def measured(plan: Plan, build: Path, images: list[bytes], rounds: int) -> dict[str, list[float]]:
    """What is said above, round by round, but for `slower`; and how long a burst of all images took, `burst_s`."""
    executor = load_executor(executor_of(plan), build)
    image, few = plan.decoders[f"{TASK}_decode"].image, images[:SINGLES]
    alone_ms = 1000.0 / len(images)
    with tempfile.TemporaryDirectory() as folder:
        generate(only_level(plan, 0), build, Path(folder) / "repository")
        with (
            Server(Path(folder) / "repository", log=Path(folder) / "log") as server,
            Client(url := f"grpc://{server.grpc_url}", timeout_s=120.0) as client,
        ):
            return take_turns(
                rounds,
                {
                    "burst_s": lambda: burst_s(url, images, SLO_MS, True),
                    "host_ms": lambda: alone_ms * burst_s(url, images, HOPELESS_MS, False),
                    "late_ms": lambda: alone_ms * burst_s(url, images, HOPELESS_MS, True),
                    "calm_ms": lambda: calmly_ms(url, images[:CALM_REQUESTS]),
                    "call_ms": lambda: called_ms(server, client, few) - bare_ms(executor, image, few),
                },
            )


def burst_s(url: str, images: list[bytes], slo_ms: float, same_clock: bool) -> float:
    """How long a replay takes that sends far more than the server keeps up with; all are answered, or all rejected."""
    sent = _sent(url, images, SATURATING_PER_S, slo_ms, same_clock)
    alike([one.outcome for one in sent], "answered" if slo_ms == SLO_MS else "rejected")
    return max(one.at_s + one.latency_ms / 1000.0 for one in sent) - sent[0].at_s


def calmly_ms(url: str, images: list[bytes]) -> float:
    """What a rejected request takes of all cores together where they come one by one."""
    before_s = _busy_s()
    sent = _sent(url, images, CALM_PER_S, HOPELESS_MS, same_clock=False)
    alike([one.outcome for one in sent], "rejected")
    cores: int = psutil.cpu_count()
    return 1000.0 * (_busy_s() - before_s) / (cores * len(images))


def slowed(setting: Setting, requests: int, took_s: float) -> float:
    """The factor on level 0 with which a burst takes `took_s` in the simulator, by bisection; at most SLOWEST."""
    cells = tuple(cell for cell in setting.cells if cell.gamma == 0)
    one = replace(setting, cells=cells, tasks=(Task(TASK, 1.0, SLO_MS),), accuracy={TASK: {0: 1.0}})
    items = one.items(make_load("poisson", requests, SATURATING_PER_S, 0).arrivals_s, 0)
    low, high = 0.0, SLOWEST
    for _ in range(STEPS):
        slower = (low + high) / 2.0
        outcome = simulate(replace(one, slower=slower), items, Joint(), 0)
        low, high = (slower, high) if outcome.ended_s - items[0].arrival_s < took_s else (low, slower)
    return high


def called_ms(server: Server, client: Client, images: list[bytes]) -> float:
    """The mean time of a batch of one, from its decision to its results, with nothing else under way."""
    before_ms, batches = _batches(server)
    for image in images:
        client.classify(TASK, images=[image])
    after_ms, more = _batches(server)
    return (after_ms - before_ms) / (more - batches)


def bare_ms(executor: ElasticExecutor, spec: ImageSpec, images: list[bytes]) -> float:
    """The mean time of a batch of one in the executor of this process."""
    pixels = [decode_image(image, spec)[None] for image in images]
    started_s = time.perf_counter()
    for one in pixels:
        executor.logits({"pixels": one}, [TASK], 0)
    return 1000.0 * (time.perf_counter() - started_s) / len(pixels)


def _sent(url: str, images: list[bytes], per_s: float, slo_ms: float, same_clock: bool) -> list[Sent]:
    samples = [Sample(TASK, image, None, "", slo_ms, 1.0) for image in images]
    load = make_load("poisson", len(images), per_s, 0)
    return asyncio.run(replay(url, load, samples, timeout_s=2.0 * SLO_MS / 1000.0, same_clock=same_clock))


def _busy_s() -> float:
    """How long this machine's cores have worked, for whomever."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


def _batches(server: Server) -> tuple[float, float]:
    """The scheduler's own count: all batches' time in ms, and their number."""
    with urllib.request.urlopen(server.metrics_url, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    total_ms, count = (
        sum(float(line.split()[-1]) for line in lines if line.startswith(f"elastriton_batch_ms_{what}{{"))
        for what in ("sum", "count")
    )
    return total_ms, count
