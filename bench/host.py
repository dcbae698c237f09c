"""The cores that the encoder shares with everything else: client, transport, decoding, answers.

Every request takes `ms` of the whole machine outside of the encoder. It is done in order of arrival, and before the
encoder's work, since an operating system's scheduler favours many that wake up briefly over one that always computes.
So in a burst requests reach the scheduler late, and its batches take longer: by all that arrives while they run.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_SAME_S = 1e-9  # a request that begins when the encoder ends does not delay it, whatever the rounding


class Host:
    """Made of all arrivals, ascending, in s, and of what each takes of the whole machine, in ms.

    `ready_s` [n] is when each request reaches the scheduler.
    """

    def __init__(self, arrivals_s: Sequence[float], ms: float) -> None:
        each_s = ms / 1000.0
        done_s = each_s * np.arange(len(arrivals_s) + 1)  # what the host has done when a request begins
        self.ready_s = done_s[1:] + np.maximum.accumulate(np.array(arrivals_s) - done_s[:-1])
        self._begin_s = self.ready_s - each_s
        self._free_s = self._begin_s - done_s[:-1]  # what the encoder can have had by then
        self._each_s = each_s

    def end_s(self, start_s: float, work_s: float) -> float:
        """When `work_s` of the encoder that start at `start_s` are done, in the time that the host leaves."""
        begun = int(np.searchsorted(self._begin_s, start_s, side="right"))
        inside_s = max(0.0, float(self.ready_s[begun - 1]) - start_s) if begun else 0.0
        free_s = start_s - (self._each_s * begun - inside_s) + work_s
        before = int(np.searchsorted(self._free_s, free_s - _SAME_S))
        return free_s + self._each_s * before
