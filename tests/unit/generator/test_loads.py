from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from traces import RECORDED, available

from elastriton.core.errors import ConfigError
from elastriton.generator.loads import make_load

TRACES, _ = available()


@pytest.mark.parametrize("trace", TRACES)
def test_loads_have_the_promised_mean_rate_and_repeat(trace: str) -> None:
    load = make_load(TRACES[trace], 1500, 200.0, seed=1)
    assert len(load.arrivals_s) / load.arrivals_s[-1] == pytest.approx(200.0)
    assert np.all(np.diff(load.arrivals_s) >= 0.0)
    assert np.array_equal(load.arrivals_s, make_load(TRACES[trace], 1500, 200.0, seed=1).arrivals_s)
    assert not np.array_equal(load.arrivals_s, make_load(TRACES[trace], 1500, 200.0, seed=2).arrivals_s)
    assert (load.stretch is not None) == (trace in RECORDED)


def test_the_step_steps() -> None:
    counts, _ = np.histogram(make_load("step", 6000, 1.0, seed=0).arrivals_s, bins=3)
    assert counts / 2000 == pytest.approx([0.5, 2.0, 0.5], rel=0.1)


def test_mmpp_is_burstier_than_poisson() -> None:
    spread = {}
    for trace in ("poisson", "mmpp"):
        counts, _ = np.histogram(make_load(trace, 5000, 1.0, seed=0).arrivals_s, bins=100)
        spread[trace] = counts.var() / counts.mean()
    assert spread["poisson"] < 1.5
    assert spread["mmpp"] > 5.0


def test_times_may_have_an_offset_and_more_digits_than_python_reads(tmp_path: Path) -> None:
    stamps = ["2023-11-16 18:15:46.5+00:00", "2023-11-16 18:15:47.6805901+00:00", "2023-11-16 18:15:48+00:00"]
    (tmp_path / "trace.csv").write_text("\ufeffTIMESTAMP\n" + "\n".join(stamps), encoding="utf-8")
    arrivals_s = make_load(str(tmp_path / "trace.csv"), 3, 1.0, seed=0).arrivals_s
    assert arrivals_s / arrivals_s[-1] == pytest.approx([0.0, 1.18059 / 1.5, 1.0])


def test_what_is_no_trace_is_named(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("when\n1\n")
    (tmp_path / "empty.csv").write_text("TIMESTAMP\n")
    (tmp_path / "once.csv").write_text("TIMESTAMP\n" + 3 * "2023-11-16 18:15:46.6805900\n")
    (tmp_path / "zones.csv").write_text("TIMESTAMP\n2023-11-16 18:15:46\n2023-11-16 18:15:47+00:00\n")
    (tmp_path / "short.csv").write_text("user,TIMESTAMP\n1\n")
    (tmp_path / "coarse.csv").write_text("TIMESTAMP\n" + 500 * "2023-11-16 18:15:46\n" + "2023-11-16 18:15:47\n")
    for trace, message in (
        ("poison", "none of poisson"),
        (str(tmp_path / "other.csv"), "no .csv with a column"),
        (str(tmp_path / "empty.csv"), "has 0 different times; it needs two at least"),
        (str(tmp_path / "once.csv"), "has 1 different times"),
        (str(tmp_path / "zones.csv"), "no .csv with a column TIMESTAMP: TypeError: can't subtract"),
        (str(tmp_path / "short.csv"), "no .csv with a column TIMESTAMP: TypeError"),
        (str(tmp_path / "coarse.csv"), "10 requests of trace .*coarse.csv, from its row .*, all have one time"),
    ):
        with pytest.raises(ConfigError, match=message):
            make_load(trace, 10, 1.0, seed=0)
