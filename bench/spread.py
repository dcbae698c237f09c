"""How benches report what they measure again and again, in turns: a median with its interval, and ratios by round."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def spread(values: Sequence[float]) -> dict[str, float]:
    """The median with its 95 % interval by order statistics (its normal approximation; all there is below 8 values)."""
    ordered, n = sorted(values), len(values)
    out = max(0, int((n - 1.96 * n**0.5) / 2))
    low, high = ordered[out], ordered[n - 1 - out]
    return {"median": round(statistics.median(ordered), 4), "low": round(low, 4), "high": round(high, 4)}


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """The first ÷ the second, round by round."""
    return [one / other for one, other in zip(above, below, strict=True)]
