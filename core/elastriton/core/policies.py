"""The policies that a configuration can name."""

from __future__ import annotations

from collections.abc import Callable

from elastriton.core.policy import LargestBatch, Policy


def _joint() -> Policy:
    from elastriton.core.joint import Joint, compile_now  # brings numba, which takes a while to import

    compile_now()
    return Joint()


POLICIES: dict[str, Callable[[], Policy]] = {"joint": _joint, "largest-batch": LargestBatch}
