from __future__ import annotations

import os
import subprocess
import sys
import time

import processor
import pytest
from processor import Used, processor_s, used
from setting import synthetic

SPIN = "import time\nwhile True: time.process_time()"


@pytest.mark.parametrize("name", ["vit_executor_0_0", "vit_scheduler_0_0"])
def test_the_encoder_s_processes_are_told_from_the_others(name: str) -> None:
    before = used(os.getpid())
    child = subprocess.Popen([sys.executable, "-c", SPIN, name], start_new_session=True)
    try:
        deadline_s = time.monotonic() + 30.0
        encoder_s = 0.0
        while encoder_s < 0.5 and time.monotonic() < deadline_s:
            since = used(child.pid).since(before)
            encoder_s = since.encoder_s if "_executor_" in name else since.outside_s
    finally:
        child.kill()
        child.wait()
    assert encoder_s >= 0.5
    if "_scheduler_" in name:
        assert since.encoder_s <= 0.0


def test_parts_of_a_batch_run_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "CORES", 2)
    setting = synthetic()
    one, three, four = (setting.p50_ms[-4][size] / 1000.0 for size in (1, 3, 4))
    batches = [[-4, 1, 99.0], [-4, 3, 99.0], [-4, 4, 99.0]]
    assert processor_s(setting, batches) == pytest.approx(one + three * 3 / 2 + four * 2)
    assert Used(3.0, 5.0).since(Used(1.0, 1.0)) == Used(2.0, 4.0)
