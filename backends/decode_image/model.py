"""Triton backend `decode_image`: JPEG or PNG bytes to the pixels of one task, and the name of that task."""

from __future__ import annotations

from typing import Any

import numpy as np

from elastriton.core.errors import Internal, RequestError
from elastriton.core.plan import DecoderPlan
from elastriton.runtime import triton
from elastriton.runtime.executor import Arrays
from elastriton.runtime.images import decode_image


class TritonPythonModel:
    """Adapter: pb_utils requests to elastriton.runtime.images."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the plan."""
        self._plan = triton.load_plan(DecoderPlan, args)
        triton.settle()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request alone: an image that cannot be decoded costs no neighbour its answer."""
        return [triton.response(self._outcome(request)) for request in requests]

    def _outcome(self, request: Any) -> Arrays | RequestError:
        try:
            images = triton.arrays(request)["IMAGE"].ravel()
            pixels = np.stack([decode_image(image, self._plan) for image in images])
        except RequestError as error:
            return error
        except Exception as error:
            return Internal(f"{type(error).__name__}: {error}")
        return {"PIXELS": pixels, "TASK": np.array([[self._plan.task.encode()]] * len(pixels), dtype=object)}
