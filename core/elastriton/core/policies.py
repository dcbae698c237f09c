"""The policies that a configuration can name."""

from __future__ import annotations

from collections.abc import Callable

from elastriton.core.otas import Otas
from elastriton.core.policy import LargestBatch, Policy


def _joint() -> Policy:
    from elastriton.core.joint import Joint  # brings numba, which takes a while to import
    from elastriton.core.programme import compile_now

    compile_now()
    return Joint()


POLICIES: dict[str, Callable[[], Policy]] = {"joint": _joint, "largest-batch": LargestBatch, "otas": Otas}
