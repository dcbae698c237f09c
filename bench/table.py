"""What the peers compute with, and the dispatcher that most of them share."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from setting import Setting

from elastriton.core.otas import Sustained
from elastriton.core.policy import Decision, Outlook
from elastriton.core.queue import Item


class Table(Sustained):
    """What levels keep up with, as the core's `otas` sees it, and Clockwork's dispatcher."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting.outlook, setting.length)
        self.max_batch = setting.outlook.max_batch

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
