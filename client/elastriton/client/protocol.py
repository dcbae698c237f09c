"""One request and one answer, as they cross the wire to a task's ensemble.

    images   IMAGE BYTES [1, 1]        ->  LABEL BYTES [1, 1], PROBABILITIES FP32 [1, classes], GAMMA INT32 [1, 1]
    texts    TEXT  BYTES [1, 1 or 2]   ->  the same, and LEVEL INT32 [1, 1], FALLBACK BOOL [1, 1]
                                           (regression: SCORE FP32 [1, 1] in place of LABEL and PROBABILITIES)

Images behind a cascade are answered as texts are.

The first dimension is the batch: always 1, since the server forms the batches. `slo_ms`, `utility` and `sent_unix_ms`
travel as Triton request parameters.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from elastriton.client.errors import InvalidInputError, ServerError
from elastriton.core import errors as core
from elastriton.core.parameters import SLO_MS, UTILITY, parse_options

OUTPUTS = ("LABEL", "PROBABILITIES", "SCORE", "LEVEL", "GAMMA", "FALLBACK")
Outputs: TypeAlias = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Request:
    """One item for one task: the values of its only input tensor (`IMAGE` or `TEXT`) and its request parameters."""

    task: str
    tensor: str
    values: tuple[bytes, ...]
    parameters: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What the server said about one item.

    `label` is the winning class and `probabilities` a float32 array over all classes; both are None for a regression
    task, which has a `score` instead. `gamma` is the token level the server chose: below 0 it merged tokens to be
    faster, 0 is the plain model, above 0 it added prompts. `level` is the model of a cascade that answered, 0 being the
    smallest; None for images without a cascade, and always 1 for texts without small models. `fallback` says that a
    small model was unsure, and its answer stands because the large one had no time for it, or cannot read it.
    `latency_ms` is the time from sending the request to having its answer, without the wait for a free slot of
    `max_in_flight`.
    """

    task: str
    gamma: int
    latency_ms: float
    label: str | None = None
    probabilities: npt.NDArray[np.float32] | None = None
    score: float | None = None
    level: int | None = None
    fallback: bool = False

    @property
    def probability(self) -> float | None:
        """The probability of the winning class; None for a regression task."""
        return None if self.probabilities is None else float(self.probabilities.max())


def check_task(task: str) -> str:
    """The task's name, fit for an address; raises InvalidInputError for an empty one or one with a slash."""
    if not task or "/" in task:
        raise InvalidInputError(f"{task!r} is no task name; give the name the server lists, e.g. 'eurosat'")
    return task


def request_parameters(slo_ms: float | None, utility: float | None) -> dict[str, float]:
    """The request parameters that are set, checked by the server's own rule.

    Raises InvalidInputError for what is no number, and out of bounds.
    """
    given = {SLO_MS: slo_ms, UTILITY: utility}
    parameters = {name: _number(name, value) for name, value in given.items() if value is not None}
    try:
        parse_options(json.dumps(parameters))
    except core.InvalidInput as error:
        raise InvalidInputError(str(error)) from None
    return parameters


def decode(task: str, outputs: Outputs, latency_ms: float) -> Answer:
    """Read an Answer out of the output tensors; raises ServerError where one is missing or empty.

    Triton does not check what its models return, so an answer without a body can arrive as a success.
    """
    missing = [name for name in ("GAMMA",) if name not in outputs]
    if "SCORE" not in outputs:
        missing += [name for name in ("LABEL", "PROBABILITIES") if name not in outputs]
    empty = [name for name, value in outputs.items() if value.size == 0]
    if missing or empty:
        raise ServerError(
            f"the answer lacks {', '.join(missing + empty)}; it has {', '.join(outputs) or 'nothing'}; "
            f"is {task!r} an ensemble that elastriton generated?",
            task=task,
        )
    return Answer(
        task=task,
        gamma=int(_first(outputs["GAMMA"])),
        latency_ms=latency_ms,
        label=_text(_first(outputs["LABEL"])) if "LABEL" in outputs else None,
        probabilities=_vector(outputs["PROBABILITIES"]) if "PROBABILITIES" in outputs else None,
        score=float(_first(outputs["SCORE"])) if "SCORE" in outputs else None,
        level=int(_first(outputs["LEVEL"])) if "LEVEL" in outputs else None,
        fallback=bool(_first(outputs["FALLBACK"])) if "FALLBACK" in outputs else False,
    )


def _number(name: str, value: float) -> float:
    try:
        if isinstance(value, bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise InvalidInputError(f"{name}={reprlib.repr(value)} is not a number; give e.g. {name}=100") from None


def _first(array: npt.NDArray[Any]) -> Any:
    return array.reshape(-1)[0]


def _vector(array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    return np.array(array.reshape(-1), dtype=np.float32)


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
