"""The scheduler backend of the live bench: ours, with the peers among its policies and a line of JSON for every batch.

bench/live.py puts a model.py beside our other backends that imports this file; nothing of it is part of the product.
"""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

from peers import policies
from setting import from_plan

from elastriton.core.drift import Drift
from elastriton.core.plan import SchedulerPlan
from elastriton.core.policies import POLICIES
from elastriton.core.scheduler import Ended
from elastriton.runtime import triton

ROOT = Path(__file__).parents[1]

_spec = importlib.util.spec_from_file_location("elastic_scheduler", ROOT / "backends/elastic_scheduler/model.py")
assert _spec is not None
assert _spec.loader is not None
_backend: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_backend)


class Logged(_backend.SchedulerMetrics):  # type: ignore[misc]
    """The metrics, and a line for every batch: level, size, true and predicted time in ms, waiting, drift."""

    log = Path(os.devnull)

    def batch(self, ended: Ended, drift: Drift) -> None:
        """Note one batch."""
        super().batch(ended, drift)
        row = [ended.gamma, ended.size, ended.took_ms, ended.predicted_ms, ended.waiting, drift.typical, drift.safe]
        with self.log.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps([round(value, 3) for value in row]) + "\n")


class TritonPythonModel(_backend.TritonPythonModel):  # type: ignore[misc]
    """The product's adapter with more policies."""

    def initialize(self, args: dict[str, str]) -> None:
        """Register the peers for this plan, then go on as always."""
        _backend.SchedulerMetrics = Logged
        POLICIES.update(policies(from_plan(triton.load_plan(SchedulerPlan, args))))
        super().initialize(args)
