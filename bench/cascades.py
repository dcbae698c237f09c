"""Cascades served, beside their peers: accuracy, early returns, latency and throughput of every policy on real texts.

    python bench/cascade_models.py           # first: data and models, an hour; some with --tiny, for three levels
    python bench/vision_cascade_models.py
    python bench/cascades.py                 # about 50 minutes; writes bench/results/cascades.json

Per task one profile and one tritonserver, in which every policy is a model of its own (bench/cascade_policies.py) in
front of the same large model. Policies take turns in random order: each gets ten samples, one at a time ("sequential":
ten, since the first finds the caches as another model left them); then a third of all test samples with 16 in flight
("at load": throughput, accuracy).
Profiling has not seen them. `infaas` is the one model that is cheapest within max_drop on labelled data: its
figures are that policy's (`same_as`). `cocktail` asks one model after the other; its record also has the latency of
both at once, of each text the slower one's (`parallel`).
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from cascade_policies import choices
from cascade_records import Asked, infaas, parallel, record
from cascade_tasks import SETTINGS, labelled, training_items, write_project
from exit_graphs import export_layers, install
from exits import TIER_LAYER, choose_entropy, exits_of
from rich.console import Console

from elastriton.client import Answer, Client
from elastriton.core.plan import Plan
from elastriton.core.planner import make_plan
from elastriton.core.profile import Profile, load_profile
from elastriton.core.promise import CascadeChoice
from elastriton.generator.cached import load_cached
from elastriton.generator.config import load_config, resolve
from elastriton.generator.data import Labelled
from elastriton.generator.goals import goals
from elastriton.generator.lora import whole_model
from elastriton.generator.machine import this_machine
from elastriton.generator.profiler import profile
from elastriton.generator.repository import generate
from elastriton.generator.serve import Server
from elastriton.generator.show import steps

ROOT = Path(__file__).parents[1]
IN_FLIGHT = 16
TURN = 10
ROUNDS = 3
SLO_MS = 60_000.0

console = Console(width=150)


def main() -> None:
    """Run the tasks and write what came out after each, in the place of what an earlier run has of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=ROOT / "build/cascades")
    parser.add_argument("--output", type=Path, default=ROOT / "bench/results/cascades.json")
    parser.add_argument("--task", nargs="*", default=tuple(SETTINGS))
    parser.add_argument("--sequential", type=int, default=400, help="test texts that are sent one at a time")
    parser.add_argument("--keep-profile", action="store_true", help="use the profile of an earlier run")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    meta_file = arguments.output.with_name(f"{arguments.output.stem}_meta.json")
    records: list[dict[str, Any]] = json.loads(arguments.output.read_text()) if arguments.output.exists() else []
    meta: dict[str, Any] = json.loads(meta_file.read_text()) if meta_file.exists() else {"tasks": {}}
    for name in arguments.task:
        found, promises = run(name, arguments)
        records = [one for one in records if one["task"] != name] + found
        meta["tasks"][name] = {"seed": arguments.seed, "machine": asdict(this_machine()), "policies": promises}
        for one in found:
            console.print(
                f"{name:10} {one['policy']:17} accuracy {one['accuracy']:.4f}  early {one['early_return']:.2f}  mean "
                f"{one['mean_ms']:6.1f}  p99 {one['p99_ms']:6.1f} ms  {one['throughput'] or 0:6.1f}/s"
            )
        arguments.output.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
        meta_file.write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")


def run(task: str, arguments: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Profile, plan and serve one task: a record per policy, and what was promised."""
    path = write_project(task, arguments.build)
    config = load_config(path)
    build = path.parent / "build"
    build.mkdir(exist_ok=True)
    if not arguments.keep_profile:
        with steps(f"profile of {task}") as advance:
            profile(config, path.parent, build, budget_s=0.1, advance=advance)
    measured = load_profile(build / "profile.json")
    taskprofile, cascade = measured.tasks[task], config.tasks[task].cascade
    assert taskprofile.cascade is not None
    assert cascade is not None
    cached = load_cached(build / taskprofile.cascade.cached.path)
    encoder = measured.encoders[taskprofile.encoder]
    found = choices(cached, taskprofile, encoder, cascade, config.overhead_ms, arguments.seed)
    calibration, test = labelled(config, task, path.parent)
    rules = {}
    if taskprofile.objective == "classification" and test.texts:
        model = resolve(config.encoders["encoder"].model, path.parent)
        rules = exit_rules(task, model, calibration, cascade.max_drop or 0.0, path.parent / "exits")
        found |= {name: replace(found["cocktail"], note=str(rule)) for name, rule in rules.items()}
    plan = together(measured, config, task, found)
    generate(plan, build, path.parent / "repository")
    for name, rule in rules.items():
        install(path.parent / f"repository/{name}_cascade", path.parent / "exits", rule)
    sequential = min(arguments.sequential, SETTINGS[task].sequential or len(test))
    asked = serve(path.parent / "repository", found, test, sequential, arguments.seed)
    pruning = taskprofile.cascade.rules
    records = [record(task, name, asked[name], test, choice, pruning, cached) for name, choice in found.items()]
    for one in records:
        if one["policy"] == "cocktail":
            one["parallel"] = parallel(asked["small-only"], asked["large-only"])
    records.append(infaas(records, cached, cascade))
    promises = {name: {"note": choice.note, "promise": asdict(choice)["promise"]} for name, choice in found.items()}
    return records, promises


def exit_rules(
    task: str, model: str, calibration: Labelled, max_drop: float, graphs: Path
) -> dict[str, dict[str, float]]:
    """Train the exits of the large model and write its layers to `graphs`; the rules of both baselines."""
    texts, labels = training_items(task, 0)
    order = random.Random(0).sample(range(len(texts)), len(texts))
    with whole_model(model) as folder:
        exits = exits_of(folder, [texts[i] for i in order], [labels[i] for i in order], calibration.texts)
        export_layers(folder, exits, graphs)
    truth = np.array([exits.labels.index(label) for label in calibration.labels])
    return {"deebert": {"entropy": choose_entropy(exits, truth, max_drop)}, "agreement": {"agree_at": TIER_LAYER - 1}}


def together(measured: Profile, config: Any, task: str, found: dict[str, CascadeChoice]) -> Plan:
    """One plan that serves every policy's cascade, as models named after the policies, on one large model."""
    plans = {name: make_plan(measured, "", goals(config), {task: choice}) for name, choice in found.items()}
    first = next(iter(plans.values()))
    cascades = {f"{slug(name)}_cascade": plan.cascades[f"{task}_cascade"] for name, plan in plans.items()}
    tasks = {slug(name): replace(first.tasks[task], entry=f"{slug(name)}_cascade") for name in plans}
    return replace(first, cascades=cascades, tasks=tasks)


def serve(
    repository: Path, found: dict[str, CascadeChoice], test: Labelled, sequential: int, seed: int
) -> dict[str, Asked]:
    """Ask a server for everything: the answers of each policy, to the first `sequential` samples one at a time."""
    order = random.Random(seed)
    asked = {name: Asked() for name in found}
    texts = test.sent_texts
    server = Server(repository, log=repository.parent / "server.log")
    server.start()
    try:
        server.wait_ready()
        with Client(f"grpc://{server.grpc_url}", timeout_s=600.0, max_in_flight=IN_FLIGHT) as client:

            def ask(policy: str, rows: Sequence[int]) -> list[Answer]:
                if test.images:
                    return client.classify(slug(policy), images=[test.images[i] for i in rows], slo_ms=SLO_MS)
                return client.classify(slug(policy), texts=[texts[i] for i in rows], slo_ms=SLO_MS)

            for name in found:
                ask(name, range(IN_FLIGHT))
            for turn in np.array_split(np.arange(sequential), -(-sequential // TURN)):
                for name in order.sample(list(found), len(found)):
                    for row in turn.tolist():
                        asked[name].sequential += ask(name, [row])
            for part in np.array_split(np.arange(len(test)), ROUNDS):
                for name in order.sample(list(found), len(found)):
                    started_s = time.perf_counter()
                    answers = ask(name, part.tolist())
                    asked[name].rounds_s.append((len(part), time.perf_counter() - started_s))
                    asked[name].at_load += answers
    finally:
        server.stop()
    return asked


def slug(policy: str) -> str:
    """A policy's name as Triton takes it."""
    return policy.replace("-", "_")


if __name__ == "__main__":
    main()
