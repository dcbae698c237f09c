"""The cores that the encoder shares with everything else: client, transport, decoding, answers.

Every request takes `ms` of the whole machine outside of the encoder, one after the other; `calm_ms` where it finds no
other there, since every thread on its way has to be woken for it alone, and parts of batches wait for each other; only
`late_ms` where it is late when its turn comes, since decoders turn it away. Where both have work, requests get SHARE of
the machine and the encoder what is left (bench/shares.py measures it): an operating system shares it among threads, and
requests have more of them. So in a burst requests reach the scheduler late, and its batches take longer.
"""

from __future__ import annotations

import math
from collections import deque

from elastriton.core.queue import Item

SHARE = 0.65


class Host:
    """Requests on their way to the scheduler, and its clock: arrivals, answers and `pass_time` are in order of time."""

    def __init__(self, ms: float, calm_ms: float, late_ms: float) -> None:
        self._each_s, self._calm_s, self._late_s = ms / 1000.0, calm_ms / 1000.0, late_ms / 1000.0
        self._left_s = 0.0  # of the first in the line
        self._line: deque[Item] = deque()
        self._now_s = 0.0

    def arrive(self, item: Item) -> None:
        """A request that is sent now."""
        self._line.append(item)
        if len(self._line) == 1:
            self._left_s = self._calm_s

    def ready_s(self, encoding: bool) -> float:
        """When the first in the line reaches the scheduler, while the encoder goes on; never if there is none."""
        return self._now_s + self._left_s / (SHARE if encoding else 1.0) if self._line else math.inf

    def next(self) -> Item:
        """The first in the line, which reaches the scheduler now."""
        item = self._line.popleft()
        if self._line:
            self._left_s = self._late_s if self._line[0].deadline_s <= self._now_s else self._each_s
        return item

    def encoded_s(self, alone_s: float) -> float:
        """When the encoder is done with what it would do until `alone_s` by itself, if the line never ends."""
        return self._now_s + (alone_s - self._now_s) / (1.0 - SHARE) if self._line else alone_s

    def pass_time(self, to_s: float, encoding: bool) -> float:
        """Go on to `to_s`, at most to the next event: how long the encoder's batches were kept from going on, in s."""
        passed_s, self._now_s = to_s - self._now_s, to_s
        if not self._line:
            return 0.0
        had_s = passed_s * (SHARE if encoding else 1.0)
        self._left_s -= had_s
        return had_s
