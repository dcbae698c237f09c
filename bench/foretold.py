"""What the simulator expects of the replays of bench/live.py: the same arrivals, tasks and policy, in the surroundings
of the run.

What surrounds the encoder is measured before each policy is served, and such a measurement errs by more than the
machine changes in half an hour (`host_ms` by a tenth, in either direction): all of a run's are pooled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from peers import policies
from setting import SURROUNDINGS, Setting
from simulator import Outcome, simulate

from elastriton.generator.loads import make_load

Record = dict[str, Any]
Traces = Mapping[str, str]


def foretell(setting: Setting, traces: Traces, records: Sequence[Record]) -> list[Record]:
    """The records with the utility that is expected of each, and of an encoder that has the machine for itself."""
    settings = {"simulated": pooled(setting, records), "simulated_alone": setting.alone()}
    return [record | {key: again(one, traces, record).utility for key, one in settings.items()} for record in records]


def pooled(setting: Setting, records: Sequence[Record]) -> Setting:
    """The setting in the typical SURROUNDINGS of `records`: medians."""
    return replace(setting, **{name: median(record[name] for record in records) for name in SURROUNDINGS})


def again(setting: Setting, traces: Traces, record: Record) -> Outcome:
    """The replay of a record, simulated in `setting`."""
    load = record["load"] * setting.capacity_per_s
    arrivals_s = make_load(traces[record["trace"]], record["requests"], load, record["seed"]).arrivals_s
    policy = policies(setting)[record["policy"]]()
    return simulate(setting, setting.items(arrivals_s, record["seed"]), policy, record["seed"])
