"""The Triton request parameters that a request may carry: names, bounds and parsing.

`slo_ms` (the time within which the answer is useful), `utility` (what an answer in time is worth) and `sent_unix_ms`
(the Unix time of sending, from which `slo_ms` then counts; else from arrival at the scheduler) are numbers or their
decimal text. `background` (a boolean) marks work that nobody waits for, a cascade's audit. Parameters reach every step
of an ensemble, over gRPC and HTTP.
"""

from __future__ import annotations

import json
import math
import reprlib
from dataclasses import dataclass

from elastriton.core.errors import InvalidInput

SLO_MS = "slo_ms"
UTILITY = "utility"
SENT_UNIX_MS = "sent_unix_ms"
BACKGROUND = "background"
MAX_SLO_MS = 600_000.0
MAX_UTILITY = 1e6
MAX_UNIX_MS = 1e14


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """What a request asks for beyond its data; None where it leaves the choice to its task."""

    slo_ms: float | None = None
    utility: float | None = None
    sent_unix_ms: float | None = None
    background: bool = False

    def waited_ms(self, unix_ms: float) -> float:
        """How long the request has been under way at a Unix time; 0 where it does not say, or by a clock ahead."""
        return 0.0 if self.sent_unix_ms is None else max(0.0, unix_ms - self.sent_unix_ms)


def parse_options(parameters_json: str, timeout_us: int = 0) -> RequestOptions:
    """Read the options from Triton's `request.parameters()`; Triton's own `timeout` stands in for `slo_ms`.

    Raises InvalidInput where a value is no number or out of bounds. Other parameters are the caller's own business.
    """
    parameters = json.loads(parameters_json) if parameters_json else {}
    slo_ms = _number(parameters, SLO_MS, MAX_SLO_MS)
    if slo_ms is None and timeout_us > 0:
        slo_ms = min(timeout_us / 1000.0, MAX_SLO_MS)
    utility, sent_unix_ms = _number(parameters, UTILITY, MAX_UTILITY), _number(parameters, SENT_UNIX_MS, MAX_UNIX_MS)
    background = parameters.get(BACKGROUND, False)
    if not isinstance(background, bool):
        seen = reprlib.repr(background)
        raise InvalidInput(f"parameter {BACKGROUND}={seen} is not a boolean; send true or leave it out")
    return RequestOptions(slo_ms, utility, sent_unix_ms, background)


def _number(parameters: dict[str, object], name: str, maximum: float) -> float | None:
    value = parameters.get(name)
    if value is None:
        return None
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        number = float(value)
    except (ValueError, OverflowError):
        raise InvalidInput(f"parameter {name}={reprlib.repr(value)} is not a number; send e.g. {name}=100") from None
    if not math.isfinite(number) or not 0 < number <= maximum:
        raise InvalidInput(f"parameter {name}={number:g} is out of bounds; it must be above 0 and at most {maximum:g}")
    return number
