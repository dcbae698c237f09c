"""Configuration and profile to plan: what the command `plan` and the demo share."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from elastriton.core.errors import ConfigError
from elastriton.core.plan import PLAN_FILE, Plan, load_plan
from elastriton.core.planner import Goals, TaskGoal, make_plan
from elastriton.core.profile import PROFILE_FILE, Profile, digest, load_profile
from elastriton.core.promise import CascadeChoice
from elastriton.generator.cached import load_cached
from elastriton.generator.certify import choose_cascade
from elastriton.generator.config import Config

TASK_GOALS: dict[str, bool | set[str]] = {
    "slo_ms": True,
    "utility": True,
    "floor": True,
    "cascade": {"depth", "max_drop", "target_accuracy", "delta", "score", "audit"},
}
"""What `plan` reads of a task; all else is measured."""


def goals(settings: Config) -> Goals:
    """What a configuration wants of its tasks."""
    tasks = {name: TaskGoal(task.slo_ms, task.utility, task.floor) for name, task in settings.tasks.items()}
    return Goals(tasks, settings.policy, settings.max_queue, settings.overhead_ms)


def choices(settings: Config, profile: Profile, build: Path) -> dict[str, CascadeChoice]:
    """The cascade of every task that has candidates, from the answers that `profile` has cached in a build folder."""
    found = {}
    for name, task in profile.tasks.items():
        config = settings.tasks[name].cascade if name in settings.tasks else None
        if task.cascade is None or config is None:
            continue
        folder = build / task.cascade.cached.path
        if not folder.is_dir() or digest(folder) != task.cascade.cached.sha256:
            raise ConfigError(f"{folder} is not what was profiled; run `elastriton profile` again")
        encoder = profile.encoders[task.encoder]
        found[name] = choose_cascade(
            load_cached(folder), task, encoder, config, hop_ms=settings.overhead_ms, seed=settings.seed
        )
    return found


def configured(settings: Config) -> dict[str, str]:
    """A digest of what is measured of each encoder and task: of all that the configuration says but its goals."""
    parts = {f"encoder {name}": encoder.model_dump(mode="json") for name, encoder in settings.encoders.items()}
    for name, task in settings.tasks.items():
        parts[f"task {name}"] = task.model_dump(mode="json", exclude=TASK_GOALS)
    return {name: hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest() for name, part in parts.items()}


def plan_for(settings: Config, build: Path) -> Plan:
    """The plan of a build folder's profile under the goals of a configuration.

    Raises ConfigError where more of the configuration than its goals has changed since it was profiled.
    """
    path = build / PROFILE_FILE
    profile = load_profile(path)
    now, then = configured(settings), profile.configured
    changed = sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name))
    changed += ["seed"] if settings.seed != profile.seed else []  # it has dealt the samples that certify
    if changed:
        raise ConfigError(f"{', '.join(changed)}: not configured as profiled; run `elastriton profile` again")
    return make_plan(profile, _sha256(path), goals(settings), choices(settings, profile, build))


def planned(build: Path) -> Plan:
    """The plan in a build folder. Raises ConfigError where its profile has been made anew since."""
    plan = load_plan(build / PLAN_FILE)
    if _sha256(build / PROFILE_FILE) != plan.profile_sha256:
        raise ConfigError(f"{build / PLAN_FILE} is of another profile; run `elastriton plan` again")
    return plan


def _sha256(file: Path) -> str:
    if not file.is_file():
        raise ConfigError(f"{file} does not exist; run `elastriton profile` first")
    return hashlib.sha256(file.read_bytes()).hexdigest()
