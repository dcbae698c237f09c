"""What serving takes of the machine beside the encoder, measured a moment before it is simulated.

Requests meet a server of the fastest level alone, and are sent as bench/live.py's are.

- `host_ms`: what a request takes of the whole machine (client, transport, decoding, a short answer): the time per
  request of a burst whose deadlines are so short that the scheduler rejects them all.
- `late_ms`: the same of requests that say when they were sent, so that decoders know they are late and turn them away.
- `calm_ms`: what the encoder loses of its time by a rejected request that comes alone (restless.py): every thread on
  its way is woken for it, and a part of a batch that has to wait holds up the whole of it.
- `call_ms`: how much longer one sample takes through the scheduler and a call between models than bare.
- `slower`: what full batches take bare now, ÷ what the profile says.
- `answer_ms`: what a sample takes in addition where it is answered. It is what a simulated burst needs to last as long
  as a measured one, and holds the copies of its pixels, its results, and what encoder and requests lose by sharing
  caches. (At three levels, of 0.98, 0.53 and 0.38 ms a sample, it was 0.18, 0.17 and 0.11: no factor.)
"""

from __future__ import annotations

import asyncio
import tempfile
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
from overhead import SLO_MS, TASK, alike, executor_of, only_level, take_turns
from restless import BATCH, Pixels, Restless, Span, restless
from setting import Setting, Task
from simulator import simulate

from elastriton.client import Client
from elastriton.core.joint import Joint
from elastriton.core.plan import Plan
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
MOST_MS, STEPS = 20.0, 14


def surrounded(setting: Setting, plan: Plan, build: Path, images: list[bytes], rounds: int) -> Setting:
    """The setting with its SURROUNDINGS as they are now: medians over rounds."""
    gamma = min(setting.p50_ms, key=lambda level: setting.p50_ms[level][-1])
    figures = measured(plan, build, images, rounds, gamma)
    now = {name: max(0.0, median(values)) for name, values in figures.items()}
    there = replace(
        setting,
        host_ms=now["host_ms"],
        calm_ms=now["calm_ms"],
        late_ms=now["late_ms"],
        call_ms=now["call_ms"],
        slower=now["full_ms"] / setting.p50_ms[gamma][-1],
    )
    return replace(there, answer_ms=answering_ms(there, gamma, len(images), now["burst_s"]))


def measured(plan: Plan, build: Path, images: list[bytes], rounds: int, gamma: int) -> dict[str, list[float]]:
    """What is said above, round by round; and how long a burst of all images takes (`burst_s`), a full batch bare."""
    executor = load_executor(executor_of(plan), build)
    spec = plan.decoders[f"{TASK}_decode"].image
    few = images[:SINGLES]
    full = np.stack([decode_image(image, spec) for image in images[: executor.max_batch]])
    calm = [images[index % len(images)] for index in range(CALM_REQUESTS)]
    ms_each = 1000.0 / len(images)
    with tempfile.TemporaryDirectory() as folder:
        generate(only_level(plan, gamma), build, Path(folder) / "repository")
        with (
            Server(Path(folder) / "repository", log=Path(folder) / "log") as server,
            Client(url := f"grpc://{server.grpc_url}", timeout_s=120.0) as client,
            restless(executor_of(plan), build, full[:BATCH], gamma) as encoder,
        ):
            return take_turns(
                rounds,
                {
                    "burst_s": lambda: burst_s(url, images, SLO_MS, True),
                    "host_ms": lambda: ms_each * burst_s(url, images, HOPELESS_MS, False),
                    "late_ms": lambda: ms_each * burst_s(url, images, HOPELESS_MS, True),
                    "calm_ms": lambda: calmly_ms(encoder, url, calm),
                    "full_ms": lambda: bare_ms(executor, [full] * (len(images) // len(full)), gamma),
                    "call_ms": lambda: (
                        called_ms(server, client, few)
                        - bare_ms(executor, [decode_image(image, spec)[None] for image in few], gamma)
                    ),
                },
            )


def burst_s(url: str, images: list[bytes], slo_ms: float, same_clock: bool) -> float:
    """How long a replay takes that sends far more than the server keeps up with; all are answered, or all rejected."""
    return lasted_s(ended(url, images, SATURATING_PER_S, slo_ms, same_clock))


def calmly_ms(encoder: Restless, url: str, images: list[bytes]) -> float:
    """What an encoder loses by each rejected request where they come one by one."""
    speed, span = encoder.beside(lambda: rejected(url, images, CALM_PER_S, seed=0))
    return lost_ms(speed, span, len(images))


def rejected(url: str, images: list[bytes], per_s: float, seed: int) -> Span:
    """Send images that cannot be answered in time: from when to when they were under way."""
    took_s = lasted_s(ended(url, images, per_s, HOPELESS_MS, same_clock=False, seed=seed))
    ended_s = time.perf_counter()
    return ended_s - took_s, ended_s


def lost_ms(speed: float, span: Span, requests: int) -> float:
    """What each of the requests of a span took of an encoder that ran at `speed` x its own."""
    return 1000.0 * (1.0 - speed) * (span[1] - span[0]) / requests


def answering_ms(setting: Setting, gamma: int, requests: int, took_s: float) -> float:
    """The `answer_ms` with which a burst at one level takes `took_s` in the simulator, by bisection."""
    cells = tuple(cell for cell in setting.cells if cell.gamma == gamma)
    one = replace(setting, cells=cells, tasks=(Task(TASK, 1.0, SLO_MS),), accuracy={TASK: {gamma: 1.0}})
    items = one.items(make_load("poisson", requests, SATURATING_PER_S, 0).arrivals_s, 0)
    low, high = 0.0, MOST_MS
    for _ in range(STEPS):
        middle = (low + high) / 2.0
        outcome = simulate(replace(one, answer_ms=middle), items, Joint(), 0)
        low, high = (middle, high) if outcome.ended_s - items[0].arrival_s < took_s else (low, middle)
    return high


def called_ms(server: Server, client: Client, images: list[bytes]) -> float:
    """The mean time of a batch of one, from its decision to its results, with nothing else under way."""
    before_ms, batches = _batches(server)
    for image in images:
        client.classify(TASK, images=[image])
    after_ms, more = _batches(server)
    return (after_ms - before_ms) / (more - batches)


def bare_ms(executor: ElasticExecutor, batches: list[Pixels], gamma: int) -> float:
    """The mean time of batches in the executor of this process."""
    started_s = time.perf_counter()
    for pixels in batches:
        executor.logits({"pixels": pixels}, [TASK] * len(pixels), gamma)
    return 1000.0 * (time.perf_counter() - started_s) / len(batches)


def ended(url: str, images: list[bytes], per_s: float, slo_ms: float, same_clock: bool, seed: int = 0) -> list[Sent]:
    """What became of images that arrive at a rate; all are answered in SLO_MS, and rejected in any other."""
    samples = [Sample(TASK, image, None, "", slo_ms, 1.0) for image in images]
    load = make_load("poisson", len(images), per_s, seed)
    sent = asyncio.run(replay(url, load, samples, timeout_s=2.0 * SLO_MS / 1000.0, same_clock=same_clock))
    alike([one.outcome for one in sent], "answered" if slo_ms == SLO_MS else "rejected")
    return sent


def lasted_s(sent: list[Sent]) -> float:
    """From the first arrival to the last outcome."""
    return max(one.at_s + one.latency_ms / 1000.0 for one in sent) - sent[0].at_s


def _batches(server: Server) -> tuple[float, float]:
    """The scheduler's own count: all batches' time in ms, and their number."""
    with urllib.request.urlopen(server.metrics_url, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    total_ms, count = (
        sum(float(line.split()[-1]) for line in lines if line.startswith(f"elastriton_batch_ms_{what}{{"))
        for what in ("sum", "count")
    )
    return total_ms, count
