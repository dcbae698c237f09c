"""Triton backend `decode_image`: JPEG or PNG bytes to the pixels of one task, and the name of that task."""

from __future__ import annotations

from typing import Any

from elastriton.core.errors import Internal, RequestError
from elastriton.core.plan import DecoderPlan
from elastriton.runtime import triton
from elastriton.runtime.decoding import DecodingService
from elastriton.runtime.executor import Arrays
from elastriton.runtime.metrics import DecoderMetrics


class TritonPythonModel:
    """Adapter: pb_utils requests to elastriton.runtime.decoding."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the plan."""
        plan = triton.load_plan(DecoderPlan, args)
        self._metrics = DecoderMetrics(args["model_name"], plan.task)
        self._service = DecodingService(plan, self._metrics)
        triton.settle()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request alone: an image that cannot be decoded costs no neighbour its answer."""
        return [triton.response(self._outcome(request)) for request in requests]

    def finalize(self) -> None:
        """Count what is left to count."""
        self._metrics.close()

    def _outcome(self, request: Any) -> Arrays | RequestError:
        try:
            return self._service.pixels(triton.arrays(request), request.parameters(), request.timeout())
        except RequestError as error:
            return error
        except Exception as error:
            return Internal(f"{type(error).__name__}: {error}")
