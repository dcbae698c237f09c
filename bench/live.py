"""Policies live: the same arrivals, real images, a real tritonserver, true labels; beside what the simulator predicts.

    python bench/live.py --requests 1000    # profile, then half an hour of replays, longer where they are repeated
    python bench/live.py --encoder clip     # the same with CLIP ViT-B/16; bench/results/live_clip.json

For every seed and policy a server is started, and the traces are replayed against it one by one (seeds outside,
policies inside: what drifts on the machine meets all of them). The load is a multiple of what level 0 keeps up with in
the bare profile. Client, decoders and encoder share the machine's cores: for the compact ViT served capacity is lower,
and its loads are chosen lower for it. A record has policies.json's keys, but for the bound, and what was measured of
the encoder's surroundings before its policy was served (surroundings.py). `simulated` is the utility that the simulator
expects in the typical surroundings of the whole run (foretold.py), `simulated_alone` the same where the encoder has the
machine for itself. `drift` is the last factor on the p99 that the scheduler has learnt, `batches_within_prediction` the
share of batches that took no longer than predicted, and `pace` how long full batches take bare ÷ what the profile says,
just before or just behind a replay, whichever took longer.

The simulator knows of no neighbours. Where a virtual machine is lent its cores, a replay is run up to six times, until
its host has `stolen` no more than a hundredth of their time and no `pace` is above PACE: who shares a core's other
thread takes its time without stealing it. Nothing else decides.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil
from foretold import foretell
from live_table import PACE, disturbed
from live_tasks import ENCODERS, write_project
from overhead import TASK, bare, executor_of
from rich.console import Console
from setting import SURROUNDINGS, Setting, from_plan
from surroundings import surrounded
from traces import available

from elastriton.core.plan import Plan
from elastriton.generator.config import load_config
from elastriton.generator.goals import plan_for
from elastriton.generator.loads import Load, make_load
from elastriton.generator.machine import this_machine
from elastriton.generator.profiler import profile
from elastriton.generator.replay import Sample, Sent, draw, labelled_samples, replay, summarise
from elastriton.generator.repository import generate
from elastriton.generator.serve import Server
from elastriton.generator.show import steps
from elastriton.runtime.executor import ElasticExecutor, load_executor

ROOT = Path(__file__).parents[1]
POLICY_NAMES = ("ours", "largest-batch", "otas", "slackfit", "infaas", "pets", "fixed(-12)")
TRACE_NAMES = ("step", "mmpp", "azure-code")
TRIES = 6
PACED = 10  # batches
ROUNDS = 3

console = Console(width=150)
Samples = dict[str, list[Sample]]


@dataclass(frozen=True)
class Bench:
    """What all replays have in common."""

    plan: Plan
    build: Path
    samples: Samples
    setting: Setting
    requests: int
    traces: dict[str, str]
    loads: tuple[float, ...]
    warm_up: int
    executor: ElasticExecutor  # in this process
    images: list[bytes]


@dataclass(frozen=True)
class Replay:
    """What was sent, the log of its batches, and what others had of the machine meanwhile."""

    sent: list[Sent]
    batches: list[list[float]]
    stolen: float
    pace: float

    @property
    def disturbed(self) -> float:
        """At most 1 where it counts as undisturbed."""
        return disturbed(self.stolen, self.pace)


def main() -> None:
    """Profile, replay, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", choices=ENCODERS, default="compact")
    parser.add_argument("--build", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--requests", type=int, default=1200, help="requests per replay")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--policy", nargs="*", default=POLICY_NAMES)
    parser.add_argument("--trace", nargs="*", default=TRACE_NAMES)
    parser.add_argument("--load", nargs="*", type=float)
    parser.add_argument("--keep-profile", action="store_true", help="use the profile of an earlier run")
    arguments = parser.parse_args()
    encoder = ENCODERS[arguments.encoder]
    name = "live" if arguments.encoder == "compact" else f"live_{arguments.encoder}"
    build = arguments.build or ROOT / "build" / name
    output = arguments.output or ROOT / f"bench/results/{name}.json"
    path = write_project(build, encoder=encoder)
    config = load_config(path)
    if not arguments.keep_profile:
        with steps("profile") as advance:
            profile(config, path.parent, build, budget_s=0.3, advance=advance)
    plan = plan_for(config, build)
    [scheduler] = plan.schedulers.values()
    sources, notes = available()
    traces = {name: sources[name] for name in arguments.trace if name in sources}
    samples = labelled_samples(config, path.parent)
    images = [image for sample in samples[TASK] if (image := sample.image) is not None]
    setting = from_plan(scheduler)
    loads = tuple(arguments.load or encoder.loads)
    executor = load_executor(executor_of(plan), build)
    few = images[: encoder.saturating]
    bench = Bench(plan, build, samples, setting, arguments.requests, traces, loads, encoder.warm_up, executor, few)
    meta = {
        "capacity_per_s": setting.capacity_per_s,
        "tasks": [asdict(task) for task in setting.tasks],
        "accuracy": setting.accuracy,
        "machine": asdict(this_machine()),
        "requests": arguments.requests,
        "notes": notes,
    }
    beside = output.with_name(f"{output.stem}_meta.json")
    beside.write_text(json.dumps(meta) + "\n", encoding="utf-8")
    records: list[dict[str, Any]] = []
    batches: list[dict[str, Any]] = []
    for seed in range(arguments.seeds):
        for name in arguments.policy:
            for record, log in replays(replace(bench, setting=settled(bench)), name, seed):
                records.append(record)
                batches.append({key: record[key] for key in ("trace", "load", "seed", "policy")} | {"batches": log})
                console.print(shown(record))
            foretold = foretell(setting, traces, records)
            output.write_text(json.dumps(foretold, indent=1) + "\n", encoding="utf-8")
    (build / "batches.json").write_text(json.dumps(batches) + "\n", encoding="utf-8")


def settled(bench: Bench) -> Setting:
    """The setting with what surrounds its encoder now; measured again while others have the machine, TRIES times."""
    for _ in range(TRIES):
        now = surrounded(bench.setting, bench.plan, bench.build, bench.images, ROUNDS)
        if now.slower <= PACE:
            break
    return now


def replays(bench: Bench, name: str, seed: int) -> Iterator[tuple[dict[str, Any], list[Any]]]:
    """Serve under a policy and replay every trace at every load: the records, each with the log of its batches."""
    with served(bench, name) as (server, log):
        url = f"grpc://{server.grpc_url}"
        calm = make_load("poisson", bench.warm_up, 0.2 * bench.setting.capacity_per_s, seed)
        asyncio.run(replay(url, calm, draw(bench.samples, bench.warm_up, seed)))
        for trace, source in bench.traces.items():
            for load in bench.loads:
                arrivals = make_load(source, bench.requests, load * bench.setting.capacity_per_s, seed)
                best = undisturbed(bench, url, arrivals, seed, log)
                summary = asdict(summarise(best.sent))
                record = {"trace": trace, "load": load, "seed": seed, "policy": name, **summary}
                record |= {
                    **{name: getattr(bench.setting, name) for name in SURROUNDINGS},
                    "stolen": best.stolen,
                    "pace": best.pace,
                    "drift": best.batches[-1][6],
                    "batches_within_prediction": sum(row[2] <= row[3] for row in best.batches) / len(best.batches),
                }
                yield record, best.batches


def undisturbed(bench: Bench, url: str, arrivals: Load, seed: int, log: Path) -> Replay:
    """Replay until the machine was ours, at most TRIES times; of several disturbed ones, the least disturbed."""
    tries: list[Replay] = []
    while not tries or (tries[-1].disturbed > 1.0 and len(tries) < TRIES):
        log.write_text("")
        first = pace(bench)
        before, before_s = stolen_s(), time.perf_counter()
        sent = asyncio.run(replay(url, arrivals, draw(bench.samples, len(arrivals.arrivals_s), seed)))
        share = (stolen_s() - before) / ((time.perf_counter() - before_s) * (os.cpu_count() or 1))
        batches = [json.loads(line) for line in log.read_text().splitlines()]
        tries.append(Replay(sent, batches, share, max(first, pace(bench))))
    return min(tries, key=lambda one: one.disturbed)


def pace(bench: Bench) -> float:
    """How long the encoder takes now for full batches at level 0, with nothing else to do, ÷ what the profile says."""
    size = bench.executor.max_batch
    image = bench.plan.decoders[f"{TASK}_decode"].image
    per_s = bare(bench.executor, image, bench.images[: PACED * size], decode=False)
    return 1000.0 * size / per_s / bench.setting.p50_ms[0][size]


def stolen_s() -> float:
    """How long, over all cores since the machine started, its host gave our time to others (`steal` of /proc/stat)."""
    return float(getattr(psutil.cpu_times(), "steal", 0.0))


@contextmanager
def served(bench: Bench, policy: str) -> Iterator[tuple[Server, Path]]:
    """A server whose scheduler runs `policy`, and the file that it logs its batches to."""
    schedulers = {name: replace(one, policy=policy) for name, one in bench.plan.schedulers.items()}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        generate(replace(bench.plan, schedulers=schedulers), bench.build, folder / "repository")
        with Server(folder / "repository", log=folder / "log", backend_directory=backends(folder)) as server:
            yield server, folder / "batches"


def backends(folder: Path) -> Path:
    """Our backends, with the bench's in the place of the scheduler's."""
    made = folder / "backends"
    made.mkdir()
    for backend in (ROOT / "backends").iterdir():
        if backend.name != "elastic_scheduler":
            (made / backend.name).symlink_to(backend)
    (made / "elastic_scheduler").mkdir()
    source = (
        "import pathlib, sys",
        f"sys.path.append({str(ROOT / 'bench')!r})",
        "from live_backend import Logged, TritonPythonModel",
        f"Logged.log = pathlib.Path({str(folder / 'batches')!r})",
    )
    (made / "elastic_scheduler/model.py").write_text("\n".join(source) + "\n")
    return made


def shown(record: dict[str, Any]) -> str:
    """A record as a line."""
    share = record["utility"] / record["requests"]
    cell = f"{record['trace']:<11}{record['load']:<5g}{record['seed']:<2}{record['policy']:<14}"
    figures = f"on time {record['on_time']:.3f}  p99 {record['p99_ms']:5.0f} ms  dropped {record['dropped']:.3f}"
    machine = f"stolen {record['stolen']:.3f}  pace {record['pace']:.2f}"
    return f"{cell} utility {share:.3f}  {figures}  {machine}"


if __name__ == "__main__":
    main()
