from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import live
import numpy as np
import pytest

from elastriton.generator.loads import Load

ARRIVALS = Load(np.array([0.0]), 1.0)


@pytest.fixture
def replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs `undisturbed` where the host steals a given share of each replay, and the encoder has a given pace by then.

    The number of the replay that counts, from 0, what was stolen of it, its pace, and how many there were.
    """

    def run(shares: list[float], paces: list[float] | None = None) -> tuple[int, float, float, int]:
        log = tmp_path / "batches"
        clock_s, stolen_s, started = 0.0, 0.0, 0

        async def replay(*_: object) -> list[int]:
            nonlocal clock_s, stolen_s, started
            clock_s += 10.0
            stolen_s += shares[started] * 10.0 * 4
            with log.open("a") as lines:
                lines.write(json.dumps([float(started)]) + "\n")
            started += 1
            return [started - 1]

        monkeypatch.setattr(live, "replay", replay)
        monkeypatch.setattr(live, "draw", lambda *_: [])
        monkeypatch.setattr(live, "stolen_s", lambda: stolen_s)
        monkeypatch.setattr(live, "pace", lambda _: ([1.0, *(paces or [1.0] * len(shares))])[started])
        monkeypatch.setattr("live.time.perf_counter", lambda: clock_s)
        monkeypatch.setattr("live.os.cpu_count", lambda: 4)
        bench: Any = type("Bench", (), {"samples": {}})
        best: Any = live.undisturbed(bench, "grpc://nowhere", ARRIVALS, 0, log)
        assert best.batches == [[float(best.sent[0])]], "the batches are those of the replay"
        return best.sent[0], best.stolen, best.pace, started

    return run


def test_a_replay_is_repeated_until_the_machine_was_ours(replayed: Any) -> None:
    assert replayed([0.2, 0.011, 0.009, 0.0]) == (2, pytest.approx(0.009), 1.0, 3)


def test_a_slow_encoder_before_or_behind_a_replay_disturbs_it(replayed: Any) -> None:
    assert replayed([0.0] * 4, [1.2, 1.1, 1.1, 1.0]) == (2, 0.0, 1.1, 3), "the second began with the first one's end"


def test_of_disturbed_replays_the_least_disturbed_one_counts(replayed: Any) -> None:
    assert replayed([0.3, 0.2, 0.04, 0.1, 0.05, 0.06]) == (2, pytest.approx(0.04), 1.0, live.TRIES)
