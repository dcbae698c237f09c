"""What bench/overhead.py makes of a round's throughputs."""

from __future__ import annotations

import pytest
from overhead import alike, each_ms, slower


def test_the_time_per_answer_is_the_hosts_and_the_slowed_encoders() -> None:
    """A request takes 2 ms outside of the encoder, and bare 1 ms within; a batch of 32 waits 3.2 ms for its call."""
    figures = {"bare": [1000.0], "rejected": [500.0], "call_ms": [3.2], "triton": [1000.0 / (2.0 + 0.1 + 1.1)]}
    assert each_ms(figures["rejected"]) == pytest.approx([2.0])
    assert slower(figures, 32) == pytest.approx([1.1])


def test_a_request_that_ended_otherwise_is_no_measurement() -> None:
    alike(["answered", "answered"], "answered")
    with pytest.raises(RuntimeError, match="1 of 2 requests should be answered: rejected"):
        alike(["answered", "rejected"], "answered")
