"""Whether any executor still comes back: a call that hangs cannot be ended, and its executor looks busy for ever."""

from __future__ import annotations

from elastriton.core.errors import Unavailable


class Pool:
    """When each executor began its batch, and when it was to be done. Times are seconds on the caller's clock.

    An executor is taken to be stuck once its batch has lasted for `LEAST_S`, and for `TIMES` what was predicted.
    """

    LEAST_S = 5.0
    TIMES = 20.0

    def __init__(self, executors: int) -> None:
        self._batches: list[tuple[float, float] | None] = [None] * executors

    def __len__(self) -> int:
        return len(self._batches)

    def began(self, executor: int, now_s: float, finish_s: float) -> None:
        """An executor, counted from 0, begins a batch that is to be answered at `finish_s`."""
        self._batches[executor] = (now_s, finish_s)

    def ended(self, executor: int) -> None:
        """It has come back."""
        self._batches[executor] = None

    def stuck(self, now_s: float) -> Unavailable | None:
        """The error to answer with while all executors are stuck; None while one is not."""
        lasted_s = []
        for batch in self._batches:
            if batch is None:
                return None
            began_s, finish_s = batch
            if now_s - began_s <= max(self.LEAST_S, self.TIMES * (finish_s - began_s)):
                return None
            lasted_s.append(now_s - began_s)
        return Unavailable(
            f"no executor has answered for {min(lasted_s):.0f} s; retry on another replica, and restart this server"
        )
