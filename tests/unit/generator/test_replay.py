"""Replaying a load: samples, the open loop, and the judgement of every answer."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elastriton.client import RejectedError
from elastriton.client.protocol import Request
from elastriton.client.testing import FakeTransport
from elastriton.core.errors import ConfigError
from elastriton.generator.config import load_config
from elastriton.generator.loads import Load
from elastriton.generator.replay import (
    MIN_SLO_MS,
    Sample,
    Sent,
    Summary,
    draw,
    labelled_samples,
    replay,
    summarise,
)
from elastriton.generator.report import check_kind, draw_report, load, load_all, save

CAT = Sample("pets", b"a cat", None, "cat", slo_ms=20_000.0, utility=2.0)
DOG = Sample("pets", b"a dog", None, "dog", slo_ms=20_000.0, utility=1.0)
TEXT = Sample("intents", None, "hello", "greet", slo_ms=20_000.0, utility=1.0)


def says(label: str, gamma: int = 0) -> dict[str, Any]:
    return {"LABEL": label, "PROBABILITIES": [1.0, 0.0], "GAMMA": gamma}


def run(handler: Any, samples: list[Sample], gap_s: float = 0.001) -> list[Sent]:
    arrivals = Load(np.arange(1, len(samples) + 1) * gap_s)
    return asyncio.run(replay(FakeTransport(handler), arrivals, samples))


def test_every_answer_is_judged_by_its_own_label() -> None:
    sent = run(lambda request: says("cat", gamma=-4), [CAT, DOG, CAT])
    assert [one.right for one in sent] == [True, False, True]
    assert [one.utility for one in sent] == [2.0, 0.0, 2.0]
    assert all(one.on_time and one.gamma == -4 and one.outcome == "answered" for one in sent)


def test_a_late_answer_is_worth_nothing() -> None:
    hurried = Sample("pets", b"a cat", None, "cat", slo_ms=1e-6, utility=1.0)
    [one] = run(lambda request: says("cat"), [hurried])
    assert (one.outcome, one.right, one.on_time, one.utility) == ("answered", True, False, 0.0)


def test_rejections_and_failures_are_told_apart() -> None:
    turns = iter(["warm-up", "rejected", "failed"])

    def handler(request: Request) -> dict[str, Any]:
        turn = next(turns)
        if turn == "rejected":
            raise RejectedError("too late")
        if turn == "failed":
            raise ConnectionError("gone")
        return says("cat")

    assert [one.outcome for one in run(handler, [CAT, CAT])] == ["rejected", "failed"]


def test_the_loop_is_open_a_slow_server_holds_nothing_back() -> None:
    calls = 0
    all_sent = asyncio.Event()

    async def slow(request: Request) -> dict[str, Any]:
        nonlocal calls
        calls += 1
        if calls == 21:
            all_sent.set()
        if calls > 1:  # the first comes before the clock starts; nobody else is answered before all have been sent
            await all_sent.wait()
        return says("cat")

    sent = run(slow, [CAT] * 20)
    assert all(one.outcome == "answered" for one in sent)


def test_requests_carry_their_deadline_and_utility() -> None:
    transport = FakeTransport(lambda request: says("greet"))
    asyncio.run(replay(transport, Load(np.array([0.0, 0.001])), [CAT, TEXT]))
    assert [request.task for request in transport.requests] == ["pets", "intents", "pets", "intents"]
    assert transport.requests[-1].values == (b"hello",)
    carried = dict(transport.requests[-2].parameters)
    assert carried == {"slo_ms": pytest.approx(20_000.0, rel=0.1), "utility": 2.0}
    asyncio.run(replay(transport, Load(np.array([0.0])), [CAT], same_clock=True))
    assert "sent_unix_ms" in transport.requests[-1].parameters


def test_deadlines_count_from_the_arrival_and_not_from_a_late_sending() -> None:
    transport = FakeTransport(lambda request: says("cat"))
    late, lost = asyncio.run(replay(transport, Load(np.array([-5.1, -30.1])), [CAT, CAT]))
    left_ms = [dict(request.parameters)["slo_ms"] for request in transport.requests[1:]]
    assert left_ms == [pytest.approx(20_000.0 - late.lag_ms), MIN_SLO_MS]
    assert late.latency_ms >= late.lag_ms >= 5_000.0
    assert (late.on_time, late.utility) == (True, 2.0)
    assert (lost.on_time, lost.utility) == (False, 0.0)


def test_requests_are_sent_before_others_get_the_processor_where_that_is_allowed() -> None:
    thread = threading.get_native_id()
    before = os.sched_getscheduler(thread)
    try:
        os.sched_setscheduler(thread, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        pytest.skip("this user may not raise a priority")
    os.sched_setscheduler(thread, before, os.sched_param(0))
    seen: list[int] = []

    def handler(request: Request) -> dict[str, Any]:
        seen.append(os.sched_getscheduler(thread))
        return says("cat")

    run(handler, [CAT])
    assert seen == [before, os.SCHED_RR | os.SCHED_RESET_ON_FORK]  # the first comes before the clock starts
    assert os.sched_getscheduler(thread) == before


def test_garbage_collection_leaves_out_what_was_there_before_the_clock_starts() -> None:
    frozen: list[int] = []

    def handler(request: Request) -> dict[str, Any]:
        frozen.append(gc.get_freeze_count())
        return says("cat")

    run(handler, [CAT])
    assert frozen[1] > frozen[0] + 1000
    assert gc.get_freeze_count() == 0


ANSWERED = Sent("a", 1.0, 0.5, 10.0, "answered", 0, right=True, on_time=True, utility=1.0)
MISSED = replace(ANSWERED, gamma=None, right=False, on_time=False, utility=0.0)


def test_the_summary_adds_up() -> None:
    sent = [
        ANSWERED,
        replace(ANSWERED, right=False, utility=0.0, gamma=-4, latency_ms=30.0),
        replace(ANSWERED, on_time=False, utility=0.0, latency_ms=500.0),
        replace(MISSED, outcome="rejected"),
        replace(MISSED, outcome="failed"),
    ]
    summary = summarise(sent)
    assert summary.p99_ms == pytest.approx(490.6)
    assert replace(summary, p99_ms=0.0) == Summary(
        requests=5,
        utility=1.0,
        on_time=0.4,
        accuracy=0.5,
        p50_ms=30.0,
        p99_ms=0.0,
        dropped=0.2,
        failed=1,
        lag_p99_ms=0.5,
        gammas={-4: 1, 0: 2},
    )


def test_samples_are_those_that_the_profile_has_not_seen(tiny_project: Path) -> None:
    config = load_config(tiny_project / "elastriton.yaml")
    samples = labelled_samples(config, tiny_project)
    colour = config.tasks["colour"].data
    assert set(samples) == {"colour", "intent"}, "answers of the regression are neither right nor wrong"
    assert colour is not None
    assert len(samples["colour"]) == 24 - colour.samples == 4
    assert samples["colour"][0].image is not None
    assert (samples["intent"][0].image, samples["intent"][0].slo_ms) == (None, 5000.0)
    with pytest.raises(ConfigError, match="task 'warm' has no data"):
        labelled_samples(config, tiny_project, ["warm"])
    with pytest.raises(ConfigError, match="task similarity is a regression"):
        labelled_samples(config, tiny_project, ["similarity"])


def test_where_the_profile_uses_all_data_it_says_so(tiny_project: Path) -> None:
    config = load_config(tiny_project / "elastriton.yaml")
    colour = config.tasks["colour"]
    assert colour.data is not None
    greedy = colour.model_copy(update={"data": colour.data.model_copy(update={"samples": 24})})
    with pytest.raises(ConfigError, match="the profile uses all of images"):
        labelled_samples(config.model_copy(update={"tasks": {"colour": greedy}}), tiny_project)


def test_tasks_are_drawn_evenly_and_samples_in_an_order_of_the_seed() -> None:
    cats = [replace(CAT, label=f"cat {number}") for number in range(20)]
    samples = {"pets": cats, "intents": [TEXT]}
    drawn = draw(samples, 400, seed=3)
    pets = [sample for sample in drawn if sample.task == "pets"]
    assert 150 < len(pets) < 250
    assert sorted(pets[:20], key=cats.index) == cats, "each once before one comes again"
    assert pets[20:40] == pets[:20]
    assert drawn == draw(samples, 400, seed=3)
    others = [sample for sample in draw(samples, 400, seed=4) if sample.task == "pets"]
    assert others[:20] != pets[:20], "a replay of another seed sends others first"


def test_a_replay_is_saved_read_and_drawn(tmp_path: Path) -> None:
    sent = [replace(ANSWERED, at_s=0.1 * i, gamma=-4 * (i % 2)) for i in range(50)]
    save(tmp_path / "ours.json", sent, {"trace": "step"})
    assert load(tmp_path / "ours.json") == sent
    draw_report(tmp_path / "report.png", {"ours": sent, "other": sent[:20]})
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"broken.json is no replay"):
        load(tmp_path / "broken.json")


def test_replays_of_one_name_are_all_drawn(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "ours.json").write_text('{"requests": []}')
    shutil.copy(tmp_path / "a/ours.json", tmp_path / "theirs.json")
    paths = [tmp_path / "a/ours.json", tmp_path / "b/ours.json", tmp_path / "theirs.json"]
    assert list(load_all(paths)) == [str(paths[0]), str(paths[1]), "theirs"]


def test_a_picture_is_of_a_known_kind() -> None:
    check_kind(Path("report.svg"))
    with pytest.raises(ConfigError, match=r"report\.txt is of no known kind; draw one of \.png"):
        check_kind(Path("report.txt"))
