"""Configuration and profile to plan: what the command `plan` and the demo share."""

from __future__ import annotations

import hashlib
from pathlib import Path

from elastriton.core.plan import Plan
from elastriton.core.planner import Goals, TaskGoal, make_plan
from elastriton.core.profile import PROFILE_FILE, load_profile
from elastriton.generator.config import Config


def goals(settings: Config) -> Goals:
    """What a configuration wants of its tasks."""
    tasks = {
        name: TaskGoal(task.slo_ms, task.utility, task.cascade.max_drop if task.cascade else 0.0, task.floor)
        for name, task in settings.tasks.items()
    }
    return Goals(tasks, settings.policy, settings.max_queue, settings.overhead_ms)


def plan_for(settings: Config, build: Path) -> Plan:
    """The plan of a build folder's profile under the goals of a configuration."""
    path = build / PROFILE_FILE
    return make_plan(load_profile(path), hashlib.sha256(path.read_bytes()).hexdigest(), goals(settings))
