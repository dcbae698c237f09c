"""What a replay takes of the processor: everything outside of the encoder, and the encoder beside its profile.

Processor time does not grow while others hold a process up, so it is measured in the replay itself, side by side with
all the rest. What shares a core's other thread or its cache does slow it, and counts.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import psutil
from setting import Setting

from elastriton.generator.serve.process import session_members

CORES = os.cpu_count() or 1


@dataclass(frozen=True)
class Used:
    """Seconds of processor time so far: of executors, and of their server's other processes and this one."""

    encoder_s: float
    outside_s: float

    def since(self, before: Used) -> Used:
        """What was used between the two."""
        return Used(self.encoder_s - before.encoder_s, self.outside_s - before.outside_s)


def used(server: int) -> Used:
    """By a server, by its pid, with all its stubs, and by this process, its client."""
    encoder_s = outside_s = 0.0
    for process in map(psutil.Process, (os.getpid(), *session_members(server))):
        times = process.cpu_times()
        if any("_executor_" in word for word in process.cmdline()):
            encoder_s += times.user + times.system
        else:
            outside_s += times.user + times.system
    return Used(encoder_s, outside_s)


def processor_s(setting: Setting, batches: Iterable[Sequence[float]]) -> float:
    """What batches of [gamma, size, …] take by the profile: their parts run side by side, one on each core."""
    return sum(
        setting.p50_ms[int(gamma)][int(size)] / 1000.0 * size / math.ceil(size / CORES) for gamma, size, *_ in batches
    )
