"""The scheduler as a state machine: `admit` on arrival, `next` when an executor is idle. Time is an argument.

It sits between the worker thread (runtime/worker.py), which owns the clock, and a policy (core/policy.py), which
decides. It never answers anybody: what it drops, it hands back.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from elastriton.core.errors import Rejected
from elastriton.core.policy import Decision, Outlook, Policy
from elastriton.core.queue import DeadlineQueue, Item


@dataclass(frozen=True, slots=True)
class Ended:
    """How a batch went: what it answered, by task, the p99 predicted, and the utility to expect of what was in time."""

    gamma: int
    size: int
    predicted_ms: float
    took_ms: float
    in_time: Counter[str]
    late: Counter[str]
    utility: float
    waiting: int


class Scheduler:
    """A deadline queue in front of one pool of equal executors.

    Once no batch has ended for QUIET_S, refusals alone tell the estimate of the machine's speed that it may be stale.
    """

    QUIET_S = 1.0

    def __init__(self, outlook: Outlook, policy: Policy, max_queue: int = 1024) -> None:
        self.outlook = outlook
        self.policy = policy
        self.max_queue = max_queue
        self.waiting = DeadlineQueue()
        self._learnt_s = -math.inf

    def admit(self, items: Sequence[Item], now_s: float) -> None:
        """Queue the items of one request, all or none.

        Raises Rejected at once where the queue is full, or no level can meet a deadline even with nothing before it.
        """
        try:
            self._check(items, now_s)
        except Rejected:
            self._observe(items, in_time=False)
            raise
        for item in items:
            self.waiting.add(item)
            if not item.background:
                self.policy.arrived(item)

    def _check(self, items: Sequence[Item], now_s: float) -> None:
        for item in items:
            needed_ms = self.outlook.needed_ms(item)
            left_ms = (item.deadline_s - now_s) * 1000.0
            if needed_ms > left_ms:
                quiet = not self.waiting and now_s - self._learnt_s >= self.QUIET_S
                if quiet and self.outlook.profiled_ms(item) <= left_ms:
                    self.outlook.latency.drift.relax()  # no batch will: a bad minute must not last for ever
                raise hopeless(left_ms, f"the fastest level needs {needed_ms:.1f} ms")
        if len(self.waiting) + len(items) > self.max_queue:
            raise Rejected(
                f"the queue is full: {len(self.waiting)} samples wait of at most {self.max_queue}; "
                f"{len(items)} more do not fit; retry later or on another replica"
            )

    def next(self, now_s: float) -> Decision | None:
        """What an idle executor should do now; None where nothing waits. The decision's items leave the queue.

        A decision without a batch and without drops means: not before its `wake_s`, or the next arrival.
        """
        if not self.waiting:
            return None
        decision = self.policy.decide(list(self.waiting), now_s, self.outlook)
        self.waiting.remove((*decision.batch, *decision.drop))
        self._observe(decision.drop, in_time=False)
        return decision

    def ended(self, decision: Decision, decided_s: float, ended_s: float, lost: Collection[Item] = ()) -> Ended:
        """Learn from a batch that was decided on and has run, and tell how it went for all but the `lost` of it."""
        took_ms, answered_s = (ended_s - decided_s) * 1000.0, ended_s + self.outlook.overhead_ms / 1000.0
        owed = [item for item in decision.batch if not item.background and item not in lost]
        in_time = [item for item in owed if answered_s <= item.deadline_s]
        late = [item for item in owed if answered_s > item.deadline_s]
        self._observe(in_time, in_time=True)
        self._observe(late, in_time=False)
        longest = max(item.length for item in decision.batch)
        self._learnt_s = ended_s
        self.outlook.latency.observe(decision.gamma, len(decision.batch), longest, took_ms)
        return Ended(
            gamma=decision.gamma,
            size=len(decision.batch),
            predicted_ms=(decision.finish_s - decided_s) * 1000.0 - self.outlook.overhead_ms,
            took_ms=took_ms,
            in_time=Counter(item.task for item in in_time),
            late=Counter(item.task for item in late),
            utility=sum(item.utility * self.outlook.accuracy[item.task][decision.gamma] for item in in_time),
            waiting=len(self.waiting),
        )

    def expire(self, now_s: float) -> list[Item]:
        """Take out the items whose deadline has passed while every executor was busy."""
        return self._take_out([item for item in self.waiting if item.deadline_s <= now_s])

    def withdraw(self, answered: Callable[[Item], bool]) -> list[Item]:
        """Take out the items whose request has been `answered`: with an error, for another sample of it."""
        return self._take_out([item for item in self.waiting if answered(item)])

    def _take_out(self, items: list[Item]) -> list[Item]:
        if items:
            self.waiting.remove(items)
            self._observe(items, in_time=False)
        return items

    def _observe(self, items: Sequence[Item], *, in_time: bool) -> None:
        """Tell the floors what became of items that somebody waits for."""
        for item in items:
            if not item.background:
                self.outlook.floors.observe(item.task, in_time=in_time)


def hopeless(left_ms: float, reason: str) -> Rejected:
    """The rejection of an item whose deadline cannot be met, with `left_ms` left and why that is too little."""
    return Rejected(f"the deadline cannot be met: {max(0.0, left_ms):.1f} ms are left and {reason}; raise slo_ms")


def by_the_senders_clock(error: Rejected, waited_ms: float, slo_ms: float) -> Rejected:
    """The rejection of a request that has been under way for `waited_ms`, with a hint where that is all its time."""
    if waited_ms < slo_ms:
        return error
    return Rejected(
        f"{error}, or leave sent_unix_ms out where clocks differ: by it the request has been under way for "
        f"{waited_ms:.1f} of its {slo_ms:g} ms"
    )
