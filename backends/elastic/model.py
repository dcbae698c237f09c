"""Triton backend `elastic`: the executor. One request is one batch at one token level, given as parameter `gamma`."""

from __future__ import annotations

import json
from typing import Any

from elastriton.core.errors import Internal, InvalidInput, RequestError
from elastriton.core.plan import ExecutorPlan
from elastriton.runtime import triton
from elastriton.runtime.executor import Arrays, load_executor, warm_up_examples


class TritonPythonModel:
    """Adapter: pb_utils requests to elastriton.runtime.executor."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the encoder, its heads and its prompts."""
        plan = triton.load_plan(ExecutorPlan, args)
        device = f"cuda:{args['model_instance_device_id']}" if args["model_instance_kind"] == "GPU" else "cpu"
        self._executor = load_executor(plan, triton.version_folder(args), device)
        self._executor.warm_up(warm_up_examples(plan, device))
        triton.settle()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request alone: an error in one never reaches another."""
        return [triton.response(self._outcome(request)) for request in requests]

    def _outcome(self, request: Any) -> Arrays | RequestError:
        try:
            gamma = _gamma(request.parameters())
            inputs = {name.lower(): array for name, array in triton.arrays(request).items()}
            tasks = [name.decode("utf-8", "replace") for name in inputs.pop("task").ravel()]
            return {"LOGITS": self._executor.logits(inputs, tasks, gamma)}
        except RequestError as error:
            return error
        except Exception as error:
            return Internal(f"{type(error).__name__}: {error}")


def _gamma(parameters: str) -> int:
    gamma = json.loads(parameters).get("gamma", 0) if parameters else 0
    if not isinstance(gamma, int):
        raise InvalidInput(f"parameter gamma={gamma!r} is not an integer")
    return gamma
