"""Configuration and profile to plan: what the command `plan` and the demo share."""

from __future__ import annotations

import hashlib
from pathlib import Path

from elastriton.core.errors import ConfigError
from elastriton.core.plan import Plan
from elastriton.core.planner import Goals, TaskGoal, make_plan
from elastriton.core.profile import PROFILE_FILE, Profile, digest, load_profile
from elastriton.core.promise import CascadeChoice
from elastriton.generator.cached import load_cached
from elastriton.generator.certify import choose_cascade
from elastriton.generator.config import Config


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


def plan_for(settings: Config, build: Path) -> Plan:
    """The plan of a build folder's profile under the goals of a configuration."""
    path = build / PROFILE_FILE
    profile = load_profile(path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return make_plan(profile, sha256, goals(settings), choices(settings, profile, build))
