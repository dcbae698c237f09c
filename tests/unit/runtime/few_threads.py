"""A process that may have no more threads."""

from __future__ import annotations

import threading


def refuse(thread: threading.Thread) -> None:
    """What the start of a thread is there."""
    raise RuntimeError("can't start new thread")
