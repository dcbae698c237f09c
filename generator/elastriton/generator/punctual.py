"""What keeps the client of a replay on time, on a machine that it shares with the server that it loads."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def punctual() -> Iterator[None]:
    """This process goes before others, where the system allows it (to root), and is not stopped to look for garbage."""
    with _first_in_line(), _nothing_old_to_collect():
        yield


@contextmanager
def _first_in_line() -> Iterator[None]:
    """The lowest real-time priority for this process's threads.

    A better nice value would not do: where sessions are groups of the scheduler's, it counts in its own group alone.
    """
    first = os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(os.sched_get_priority_min(os.SCHED_RR))
    before: dict[int, tuple[int, os.sched_param]] = {}
    for path in Path("/proc/self/task").glob("*"):
        with suppress(OSError):  # not allowed, or the thread has ended
            own = os.sched_getscheduler(thread := int(path.name)), os.sched_getparam(thread)
            os.sched_setscheduler(thread, *first)
            before[thread] = own
    try:
        yield
    finally:
        for thread, own in before.items():
            with suppress(OSError):
                os.sched_setscheduler(thread, *own)


@contextmanager
def _nothing_old_to_collect() -> Iterator[None]:
    """What exists now is left out of garbage collection: with torch imported, a full one takes 0.25 to 0.4 s."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
