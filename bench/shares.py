"""Who gets the cores: an encoder that always has work, and requests that need none, side by side.

    make demo && python bench/shares.py        (about 2 minutes; writes bench/results/shares.json)

A server rejects every request (as for surroundings.py's `host_ms`), sent at several rates, the last of them more than
it keeps up with; the same again while another process encodes full batches at one level. `requests` is how many per
second of the rate came through, ÷ that without an encoder beside it; `encoder` its speed, ÷ that without requests. At
the last rate `requests` is host.py's SHARE: both have work all the time.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import fmean

import numpy as np
from overhead import ROOT, TASK, executor_of, only_level
from spread import spread
from surroundings import HOPELESS_MS, ended, lasted_s

from elastriton.core.plan import PLAN_FILE, Plan
from elastriton.core.records import load
from elastriton.generator.config import load_config
from elastriton.generator.data import load_data
from elastriton.generator.machine import this_machine
from elastriton.generator.repository import generate
from elastriton.generator.serve import Server
from elastriton.runtime.executor import load_executor
from elastriton.runtime.images import decode_image

RATES = (300.0, 600.0, 5000.0)
SENT_S, AT_LEAST, AT_MOST = 1.5, 300, 1000

Span = tuple[float, float]


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=ROOT / "build/demo")
    parser.add_argument("--output", type=Path, default=ROOT / "bench/results/shares.json")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    plan = load(Plan, arguments.build / PLAN_FILE)
    config = load_config(ROOT / "examples/demo/elastriton.yaml").tasks[TASK]
    assert config.data is not None
    images = list(load_data(ROOT / "examples/demo" / config.data.path).images)
    gammas = {point.gamma for point in plan.schedulers[plan.tasks[TASK].scheduler].tasks[TASK].accuracy}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        generate(only_level(plan, 0), arguments.build, Path(folder) / "repository")
        with Server(Path(folder) / "repository", log=Path(folder) / "log") as server:
            url = f"grpc://{server.grpc_url}"
            for gamma in (0, min(gammas)):
                for rate in RATES:
                    rows.append(beside(url, arguments.build, images, gamma, rate, arguments.rounds))
                    print(json.dumps(rows[-1]))
    result = {"rows": rows, "rounds": arguments.rounds, "machine": asdict(this_machine())}
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def beside(url: str, build: Path, images: list[bytes], gamma: int, rate: float, rounds: int) -> dict[str, object]:
    """The encoder at a level and requests at a rate, with and without each other, in turns."""
    requests, encoder = [], []
    with encoding(build, images, gamma) as switch:
        for turn in range(rounds):
            _, alone = rejected(url, images, rate, turn)
            switch.send("on")
            time.sleep(SENT_S / 3)
            quiet = (time.perf_counter(), time.perf_counter() + SENT_S)
            time.sleep(SENT_S)
            loud, together = rejected(url, images, rate, turn)
            switch.send("off")
            batches: list[Span] = switch.recv()
            requests.append(together / alone)
            encoder.append(mean_s(batches, quiet) / mean_s(batches, loud))
    return {"gamma": gamma, "rate_per_s": rate, "requests": spread(requests), "encoder": spread(encoder)}


def rejected(url: str, images: list[bytes], rate: float, seed: int) -> tuple[Span, float]:
    """Send images that cannot be answered in time: from when to when, and how many per second came back."""
    n = int(min(max(SENT_S * rate, AT_LEAST), AT_MOST))
    begun_s = time.perf_counter()
    took_s = lasted_s(ended(url, [images[index % len(images)] for index in range(n)], rate, HOPELESS_MS, False, seed))
    ended_s = time.perf_counter()
    return (max(begun_s, ended_s - took_s), ended_s), n / took_s


def mean_s(batches: list[Span], during: Span) -> float:
    """The mean time of the batches that lie within a span."""
    return fmean(end_s - start_s for start_s, end_s in batches if during[0] <= start_s and end_s <= during[1])


@contextmanager
def encoding(build: Path, images: list[bytes], gamma: int) -> Iterator[Connection]:
    """A process that encodes between `on` and `off`, and then sends the start and the end of every batch."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=encode, args=(build, images, gamma, theirs), daemon=True)
    process.start()
    ours.recv()
    try:
        yield ours
    finally:
        ours.send("end")
        process.join()


def encode(build: Path, images: list[bytes], gamma: int, switch: Connection) -> None:
    """The process's loop."""
    plan = load(Plan, build / PLAN_FILE)
    executor = load_executor(executor_of(plan), build)
    spec = plan.decoders[f"{TASK}_decode"].image
    batch = np.stack([decode_image(image, spec) for image in images[: executor.max_batch]])
    switch.send("ready")
    while switch.recv() == "on":
        spans: list[Span] = []
        while not switch.poll():
            start_s = time.perf_counter()
            executor.logits({"pixels": batch}, [TASK] * len(batch), gamma)
            spans.append((start_s, time.perf_counter()))
        switch.recv()
        switch.send(spans)


if __name__ == "__main__":
    main()
