"""How fast requests arrive, and what a millisecond of the executor is worth because of it."""

from __future__ import annotations

import math
from collections.abc import Sequence


class RecentRate:
    """Arrivals per second over about `SHARE` of a mean deadline: who comes later competes with nobody who waits now.

    One exponentially decaying count whose time constant follows the deadlines of what arrives.
    """

    SHARE = 2.0 / 3.0
    FOLLOW = 0.02

    def __init__(self) -> None:
        self._rate = 0.0
        self._constant_s = 0.0
        self._last_s = -math.inf

    def arrived(self, now_s: float, slo_s: float) -> None:
        """Count one arrival that has `slo_s` seconds to its deadline."""
        wanted_s = self.SHARE * max(slo_s, 1e-6)
        self._rate = self.per_s(now_s)
        self._constant_s += (wanted_s - self._constant_s) * (self.FOLLOW if self._constant_s else 1.0)
        self._rate += 1.0 / self._constant_s
        self._last_s = max(self._last_s, now_s)

    def per_s(self, now_s: float) -> float:
        """The estimate at `now_s`."""
        if not self._constant_s:
            return 0.0
        return self._rate * math.exp(-max(0.0, now_s - self._last_s) / self._constant_s)


class ArrivalRate:
    """Arrivals per second, as exponentially decaying counts over two time constants; the larger one counts.

    The short one sees a burst begin, the long one remembers it for a while. It knows of no deadlines.
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


LOW, HIGH = 0.7, 1.4  # of the estimate: it rests on few arrivals, and the next moments may bring fewer or more
MOST = 0.4  # of what a level can earn in its time: where even the cheapest is overrun, the queue has work for all of it


def expected_price(rate: float, cost: Sequence[float], worth: Sequence[float]) -> float:
    """The price of time at an uncertain rate: a mean over the rate and `LOW` of it, at most `MOST` of its worth.

    The price rises by leaps as the rate does, and a mean softens them. Where time has a price even at the low rate, the
    load is no passing burst, and `HIGH` counts, too; before, it would pay for bursts that do not come.
    """
    mixes = envelope(cost, worth)
    most = MOST * mixes[0][1] / mixes[0][0]
    low, middle, high = (min(most, price_of_time(share * rate, mixes)) for share in (LOW, 1.0, HIGH))
    return (low + middle + high) / 3.0 if low > 0.0 else max(0.0, middle / 2.0)


def price_of_time(rate: float, mixes: Sequence[tuple[float, float]]) -> float:
    """What a unit of executor time is worth to arrivals at `rate`, per unit of time.

    A level serves a sample at a cost in time and earns a worth. The best mix of levels for a stream solves a small
    linear programme: maximise the worth under one unit of time per unit of time. Its dual is the slope of `mixes`, the
    concave envelope of worth over cost, at the cost that the rate leaves per sample: zero where even the dearest level
    keeps up, and the worth per time of the cheapest one where none does.
    """
    previous = (0.0, 0.0)
    for point in mixes:
        if point[0] * rate > 1.0:
            return (point[1] - previous[1]) / (point[0] - previous[0])
        previous = point
    return 0.0


def envelope(cost: Sequence[float], worth: Sequence[float]) -> list[tuple[float, float]]:
    """The levels on the rising part of the upper concave envelope of worth over cost, seen from the origin."""
    kept: list[tuple[float, float]] = []
    for x, y in sorted(zip(cost, worth, strict=True)):
        if kept and y <= kept[-1][1]:
            continue
        while kept:
            before = kept[-2] if len(kept) > 1 else (0.0, 0.0)
            if (y - before[1]) * (kept[-1][0] - before[0]) < (kept[-1][1] - before[1]) * (x - before[0]):
                break
            kept.pop()
        kept.append((x, y))
    return kept
