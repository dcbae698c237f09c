from __future__ import annotations

import io
from typing import Any

import pytest
from live_table import live_table, ratio
from rich.console import Console


def _record(
    policy: str, seed: int, utility: float, simulated: float, stolen: float = 0.0, pace: float = 1.0
) -> dict[str, Any]:
    return {
        "trace": "step",
        "load": 0.25,
        "seed": seed,
        "policy": policy,
        "requests": 100,
        "utility": utility,
        "simulated": simulated,
        "simulated_alone": 100.0,
        "stolen": stolen,
        "pace": pace,
    }


def test_means_are_per_request_and_disturbed_runs_compare_nobody() -> None:
    records = [
        _record("pets", 0, 40.0, 41.0),
        _record("pets", 1, 40.0, 60.0),
        _record("pets", 2, 40.0, 41.0, pace=1.4),
        _record("ours", 0, 80.0, 78.0),
        _record("ours", 1, 60.0, 80.0, stolen=0.5),
        _record("ours", 2, 70.0, 79.0),
    ]
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(live_table(records))
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in console.export_text().splitlines()]
    [ours], [pets] = ([row for row in rows if row[0] == name] for name in ("ours", "pets"))
    assert ours[1:5] == ["3", "0.700", "0.790", "1.000"]
    assert ours[6:] == ["1 of 3", ""]
    assert pets[6:] == ["2 of 3", "2.00 [2.00, 2.00] (1)"], (
        "the second run of ours was disturbed, and the third of pets"
    )
    assert rows.index(ours) < rows.index(pets)


def test_a_ratio_is_of_sums() -> None:
    assert ratio([(1.0, 2.0), (3.0, 2.0)]).startswith("1.00 \\[0.50, 1.50]")
    assert ratio([]) == "–"


@pytest.mark.parametrize("missing", ["ours", "pets"])
def test_a_policy_may_be_missing(missing: str) -> None:
    records = [_record(name, 0, 1.0, 1.0) for name in ("ours", "pets") if name != missing]
    assert live_table(records).row_count == 1
