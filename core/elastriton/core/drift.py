"""How much longer batches take than the profile says, learnt while serving.

A served machine is shared: with clients, with decoders, with neighbours. Two factors follow it by stochastic
approximation of quantiles (Robbins and Monro, 1951), a step up where a batch took longer and one down where it did not:

- `typical`, quickly: the median of a batch's time over its measured median;
- `tail`, slowly: a high percentile of its time over its measured p99 times `typical`. One batch in 150 is to take
  longer rather than one in 100, so that 99 in 100 keep to the prediction while the factors are still learning, too.
"""

from __future__ import annotations

import math


class Drift:
    """The two factors; neither falls below 1, so that a quiet moment is not taken for a faster machine."""

    STEP = 0.04
    MAX_TYPICAL = 8.0
    RISE = 0.05
    FALL = RISE / 149.0
    MAX_TAIL = 2.0

    def __init__(self) -> None:
        self.typical = 1.0
        self.tail = 1.0

    @property
    def safe(self) -> float:
        """The factor on the measured p99."""
        return self.typical * self.tail

    def observe(self, took_ms: float, p50_ms: float, p99_ms: float) -> None:
        """Note that a batch took `took_ms`, whose measured median and p99 are the other two."""
        late = took_ms > p99_ms * self.safe
        self.tail = _within(self.tail * math.exp(self.RISE if late else -self.FALL), self.MAX_TAIL)
        self._step(self.STEP if took_ms > p50_ms * self.typical else -self.STEP)

    def relax(self) -> None:
        """Believe the machine a little quicker, as no batch will show it: the estimate itself lets nobody in."""
        self._step(-self.STEP)

    def _step(self, by: float) -> None:
        self.typical = _within(self.typical * math.exp(by), self.MAX_TYPICAL)


def _within(value: float, most: float) -> float:
    return min(most, max(1.0, value))
