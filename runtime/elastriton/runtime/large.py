"""The large model of a cascade, behind its scheduler (small.py: those before it).

row ─ preparation.read ─► reading ─ ask: call(scheduler) ─► what it says, at the level that the time left asked for
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from elastriton.core.errors import Internal, InvalidInput
from elastriton.core.parameters import BACKGROUND, MAX_SLO_MS, SLO_MS, UTILITY
from elastriton.core.plan import CascadePlan
from elastriton.runtime.executor import Arrays, Floats
from elastriton.runtime.preparing import preparation
from elastriton.runtime.scheduling import Call, Parameters


class LargeModel:
    """How its rows are prepared, and one asked for."""

    def __init__(self, plan: CascadePlan, folder: Path, call: Call) -> None:
        self._plan = plan
        self._call = call
        tokenizer = folder / plan.tokenizer.path if plan.tokenizer else folder
        self.preparation = preparation(plan.task, plan.text, plan.image, tokenizer, plan.inputs)

    def ask(
        self, reading: Any, slo_ms: float, utility: float | None, request_id: str, *, background: bool = False
    ) -> tuple[Floats, int]:
        """Probabilities [classes] (a regression: [value]), and the level gamma. Raises what the scheduler does."""
        inputs: Arrays = {name.upper(): array for name, array in self.preparation.batch([reading]).items()}
        inputs["TASK"] = np.array([[self._plan.task.encode()]], dtype=object)
        parameters: Parameters = {SLO_MS: repr(min(slo_ms, MAX_SLO_MS))}  # text: calls between models carry no floats
        if utility is not None:
            parameters[UTILITY] = repr(utility)
        if background:
            parameters[BACKGROUND] = True
        try:
            outputs = self._call(self._plan.scheduler, inputs, parameters, request_id)
        except InvalidInput as error:  # the request was fit to be read: what is wrong now, the cascade has made
            raise Internal(f"{self._plan.scheduler} cannot read what the cascade sent: {error}") from None
        name = "SCORE" if self._plan.objective == "regression" else "PROBABILITIES"
        return np.asarray(outputs[name][0], dtype=np.float32), int(outputs["GAMMA"][0, 0])
