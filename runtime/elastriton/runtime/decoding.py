"""The decoding service: image bytes in, pixels out. The body of backends/decode_image.

    IMAGE, parameters ─► is there time left? else rejected ─► decode_image ─► PIXELS, TASK

Triton's queue in front of a decoder is first in, first out, and knows no deadlines. Were all of it decoded, an overload
would spend the processors on images that the scheduler then rejects, and with that the time of those behind them. The
queue then grows until those at its head are about to be turned away: who is decoded must have time for what follows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sized
from functools import partial
from typing import Literal, Protocol

import numpy as np

from elastriton.core.errors import InvalidInput
from elastriton.core.parameters import RequestOptions, parse_options
from elastriton.core.plan import DecoderPlan
from elastriton.core.scheduler import by_the_senders_clock, hopeless
from elastriton.runtime.executor import Arrays
from elastriton.runtime.images import decode_image
from elastriton.runtime.outbox import guarded

BUSY = 3.0
"""How much longer all takes where a decoder is behind, than alone (measured: bench/late.py)."""

IDLE_S = 0.01
"""A decoder that had nothing to do for so long is not behind: what a request lacks, it lost on its way here."""


class DecodingObserver(Protocol):
    """Is told what the scheduler never sees, and must not wait for anything (runtime/metrics.py)."""

    def lost(self, samples: int, outcome: Literal["rejected", "failed"]) -> None:
        """Samples of one request were late before they were decoded, or lost to a failure of ours."""
        ...


class DecodingService:
    """Decodes the images of one task."""

    def __init__(
        self,
        plan: DecoderPlan,
        observer: DecodingObserver | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan = plan
        self._observer = observer
        self._clock = clock
        self._ended_s = -math.inf

    def pixels(self, inputs: Arrays, parameters: str, timeout_us: int = 0) -> Arrays:
        """The pixels of a request's images, and their task for each.

        Raises InvalidInput for bad parameters and for bytes that are no image; Rejected, without decoding any, where
        less is left of the request's time than half, and than decoding and the fastest level take: alone, or on a busy
        machine where decoders are behind.
        """
        try:
            return self._pixels(inputs, parameters, timeout_us)
        finally:
            self._ended_s = self._clock()

    def _pixels(self, inputs: Arrays, parameters: str, timeout_us: int) -> Arrays:
        options = parse_options(parameters, timeout_us)
        images = inputs["IMAGE"].ravel()
        slo_ms, waited_ms = options.slo_ms or self._plan.slo_ms, options.waited_ms(time.time() * 1000.0)
        behind = self._clock() - self._ended_s < IDLE_S
        if waited_ms and slo_ms - waited_ms <= min((BUSY if behind else 1.0) * self._plan.needed_ms, slo_ms / 2.0):
            self._note_lost(images, options, "rejected")
            needed = f"decoding and the fastest level take {self._plan.needed_ms:.1f} ms on an idle machine"
            needed += f", up to {BUSY:g} x as long on this busy one" if behind else ""
            late = hopeless(slo_ms - waited_ms, needed)
            raise by_the_senders_clock(late, waited_ms, slo_ms)
        plan = self._plan
        try:
            pixels = np.stack([decode_image(image, plan.image, plan.max_bytes, plan.max_pixels) for image in images])
        except InvalidInput:
            raise
        except Exception:
            self._note_lost(images, options, "failed")
            raise
        return {"PIXELS": pixels, "TASK": np.array([[plan.task.encode()]] * len(pixels), dtype=object)}

    def _note_lost(self, images: Sized, options: RequestOptions, outcome: Literal["rejected", "failed"]) -> None:
        if self._observer and not options.background:
            guarded(partial(self._observer.lost, len(images), outcome))
