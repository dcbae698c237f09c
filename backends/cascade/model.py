"""Triton backend `cascade`: the small model answers what it is sure of; the rest goes to the large one (BLS)."""

from __future__ import annotations

from functools import partial
from typing import Any

from elastriton.core.plan import CascadePlan
from elastriton.runtime import triton
from elastriton.runtime.cascading import CascadeService
from elastriton.runtime.metrics import CascadeMetrics


class TritonPythonModel:
    """Adapter: pb_utils requests to elastriton.runtime.cascading."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the tokenizers and the small model; threads start with the first re-routed request."""
        plan = triton.load_plan(CascadePlan, args)
        answer = ["SCORE"] if plan.objective == "regression" else ["PROBABILITIES"]
        call = partial(triton.call, outputs=[*answer, "GAMMA"])
        self._metrics = CascadeMetrics(args["model_name"], plan.task, len(plan.small) + 1)
        self._service = CascadeService(plan, triton.version_folder(args), call, self._metrics)
        triton.settle()

    def execute(self, requests: list[Any]) -> None:
        """Answer sure samples now; the others later, through their senders."""
        self._service.handle([triton.read(request) for request in requests])

    def finalize(self) -> None:
        """Answer what is left, and count it."""
        self._service.stop()
        self._metrics.close()
