"""Triton backend `elastic_scheduler`: defers every answer, forms batches by deadline and calls the executor (BLS)."""

from __future__ import annotations

from functools import partial
from typing import Any

from elastriton.core.plan import SchedulerPlan
from elastriton.runtime import triton
from elastriton.runtime.metrics import SchedulerMetrics
from elastriton.runtime.scheduling import SchedulingService


class TritonPythonModel:
    """Adapter: pb_utils requests to elastriton.runtime.scheduling."""

    def initialize(self, args: dict[str, str]) -> None:
        """Build the service; its threads start with the first request (no BLS may happen before this returns)."""
        plan = triton.load_plan(SchedulerPlan, args)
        call = partial(triton.call, outputs=["LOGITS"])
        self._metrics = SchedulerMetrics(args["model_name"], sorted({cell.gamma for cell in plan.latency}), plan.tasks)
        self._service = SchedulingService(plan, call, self._metrics)
        triton.settle()

    def execute(self, requests: list[Any]) -> None:
        """Take the requests over; each is answered later, through its sender."""
        for request in requests:
            self._service.handle(triton.read(request))

    def finalize(self) -> None:
        """Answer what is left, and count it."""
        self._service.stop()
        self._metrics.close()
