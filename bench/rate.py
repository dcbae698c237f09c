"""The arrival rate that the peers estimate; ours follows deadlines instead, see core/load.py."""

from __future__ import annotations

import math
from collections.abc import Sequence


class ArrivalRate:
    """Arrivals per second, as exponentially decaying counts over two time constants; the larger one counts.

    The short one sees a burst begin, the long one remembers it for a while.
    """

    def __init__(self, constants_s: Sequence[float] = (0.25, 2.0)) -> None:
        self._constants_s = tuple(constants_s)
        self._rates = [0.0] * len(self._constants_s)
        self._last_s = -math.inf

    def arrived(self, now_s: float) -> None:
        """Count one arrival."""
        self._rates = [rate + 1.0 / tau for rate, tau in zip(self._decayed(now_s), self._constants_s, strict=True)]
        self._last_s = max(self._last_s, now_s)

    def per_s(self, now_s: float) -> float:
        """The estimate at `now_s`."""
        return max(self._decayed(now_s))

    def _decayed(self, now_s: float) -> list[float]:
        elapsed_s = max(0.0, now_s - self._last_s)
        return [rate * math.exp(-elapsed_s / tau) for rate, tau in zip(self._rates, self._constants_s, strict=True)]
