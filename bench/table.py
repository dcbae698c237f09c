"""What the peers compute with, and the dispatcher that most of them share."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from statistics import fmean

from setting import Setting

from elastriton.core.policy import Decision, Outlook
from elastriton.core.queue import Item


class Table:
    """What peers compute with: p99 by level and size, mean accuracy, and the throughput that deadlines leave."""

    def __init__(self, setting: Setting) -> None:
        sizes = range(1, setting.outlook.max_batch + 1)
        self.rows_ms = setting.p99_ms
        self.max_batch = setting.outlook.max_batch
        self.fast_to_slow = sorted(self.rows_ms, key=lambda gamma: self.rows_ms[gamma][-1])
        self.accuracy = {
            gamma: fmean(setting.accuracy[task.name][gamma] for task in setting.tasks) for gamma in self.rows_ms
        }
        shortest_ms = min(task.slo_ms for task in setting.tasks)
        self.per_s = {
            gamma: max(1000.0 * size / row[size] for size in sizes if size == 1 or row[size] <= shortest_ms)
            for gamma, row in self.rows_ms.items()
        }

    def most_accurate(self, per_s: float) -> int:
        """The most accurate level that sustains a rate; the fastest where none does."""
        able = [gamma for gamma in self.fast_to_slow if self.per_s[gamma] >= per_s]
        return max(able, key=self.accuracy.__getitem__, default=self.fast_to_slow[0])

    def finish_s(self, gamma: int, size: int, now_s: float, outlook: Outlook) -> float:
        """When a batch that starts now is answered, by the p99 with what has drifted since."""
        return now_s + (outlook.latency.drift.safe * self.rows_ms[gamma][size] + outlook.overhead_ms) / 1000.0

    def slack_ms(self, head: Item, now_s: float, outlook: Outlook) -> float:
        """The time that is left for a batch with `head`, in ms of the measured table."""
        return (1000.0 * (head.deadline_s - now_s) - outlook.overhead_ms) / outlook.latency.drift.safe

    def dispatch(self, waiting: Sequence[Item], now_s: float, outlook: Outlook, gamma: int) -> Decision:
        """Clockwork's step at one level, see the module's docstring."""
        for start, head in enumerate(waiting):
            slack_ms = self.slack_ms(head, now_s, outlook)
            size = min(bisect_right(self.rows_ms[gamma], slack_ms) - 1, len(waiting) - start)
            if size > 0:
                finish_s = self.finish_s(gamma, size, now_s, outlook)
                return Decision(tuple(waiting[start : start + size]), gamma, finish_s, tuple(waiting[:start]))
        return Decision(drop=tuple(waiting))
