from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from elastriton.core.errors import InvalidInput, Rejected
from elastriton.core.plan import DecoderPlan
from elastriton.core.profile import ImageSpec
from elastriton.runtime.decoding import DecodingService
from elastriton.runtime.executor import Arrays

PLAN = DecoderPlan("colour", ImageSpec(8, 8, 8, "bicubic"), slo_ms=60_000.0)


class Counted:
    def __init__(self) -> None:
        self.lost_samples: list[tuple[int, str]] = []

    def lost(self, samples: int, outcome: str) -> None:
        self.lost_samples.append((samples, outcome))


def decode(image: bytes, parameters: str = "", plan: DecoderPlan = PLAN) -> Arrays:
    return DecodingService(plan).pixels(images(image), parameters)


def images(*data: bytes) -> Arrays:
    return {"IMAGE": np.array([[one] for one in data], dtype=object)}


def sent(ago_ms: float, **parameters: Any) -> str:
    return json.dumps({"sent_unix_ms": round(time.time() * 1000.0 - ago_ms), **parameters})


def test_images_become_pixels_and_each_gets_its_task(make_jpeg: Any) -> None:
    outputs = DecodingService(PLAN).pixels(images(make_jpeg("red"), make_jpeg("blue")), "")
    assert outputs["PIXELS"].shape == (2, 8, 8, 3)
    assert outputs["PIXELS"].dtype == np.uint8
    assert outputs["TASK"].tolist() == [[b"colour"], [b"colour"]]


def test_the_plan_s_limits_hold(make_jpeg: Any) -> None:
    image = make_jpeg("red")
    for limit in ({"max_bytes": len(image) - 1}, {"max_pixels": 100}):
        plan = DecoderPlan("colour", PLAN.image, 1000.0, **limit)
        with pytest.raises(InvalidInput, match="IMAGE"):
            decode(image, plan=plan)


@pytest.mark.parametrize(
    ("parameters", "timeout_us", "limit"),
    [(sent(61_000), 0, "60000"), (sent(5_000, slo_ms="100"), 0, "100"), (sent(5_000), 2_000_000, "2000")],
)
def test_what_is_late_is_rejected_and_not_decoded(parameters: str, timeout_us: int, limit: str) -> None:
    """By the request's own deadline, Triton's timeout, or the task's; what cannot be decoded is not even looked at."""
    with pytest.raises(Rejected) as caught:
        DecodingService(PLAN).pixels(images(b"no image"), parameters, timeout_us)
    assert re.fullmatch(
        r"the deadline cannot be met: 0\.0 ms are left and decoding and the fastest level take 0\.0 ms on an idle "
        r"machine; raise slo_ms, or leave sent_unix_ms out where clocks differ: "
        r"by it the request has been under way "
        rf"for \d+\.\d of its {limit} ms",
        str(caught.value),
    )


def test_what_has_too_little_time_left_for_the_fastest_level_is_not_decoded(make_jpeg: Any) -> None:
    """Of a queue in order of arrival that is as long as the deadline, all would else be decoded a moment too late."""
    data = images(make_jpeg("red"))
    service = DecodingService(replace(PLAN, needed_ms=5_000.0), clock=lambda: 0.0)  # one behind the other
    service.pixels(data, sent(40_000))
    service.pixels(data, '{"slo_ms": 5000}')
    service.pixels(data, sent(5_000, slo_ms=12_000))
    with pytest.raises(Rejected, match=r"\d{5}\.\d ms are left and .* take 5000\.0 ms on an idle machine, up to 3 x"):
        service.pixels(data, sent(49_000))
    with pytest.raises(Rejected, match=r"\d{4}\.\d ms are left"):
        service.pixels(data, sent(7_000, slo_ms=12_000))


def test_a_decoder_that_was_idle_takes_the_machine_for_idle(make_jpeg: Any) -> None:
    """What came late to a machine with nothing to do was late before: it takes no three times as long from here."""
    data, now_s = images(make_jpeg("red")), [0.0]
    service = DecodingService(replace(PLAN, needed_ms=5_000.0), clock=lambda: now_s[0])
    service.pixels(data, sent(49_000))
    with pytest.raises(Rejected, match="up to 3 x as long on this busy one"):
        service.pixels(data, sent(49_000))
    now_s[0] += 1.0
    service.pixels(data, sent(49_000))
    now_s[0] += 1.0
    with pytest.raises(Rejected, match="on an idle machine; raise"):
        service.pixels(data, sent(56_000))


def test_what_still_has_time_or_does_not_say_when_it_was_sent_is_decoded(make_jpeg: Any) -> None:
    for parameters in (sent(5_000), sent(5_000, slo_ms=50_000), sent(-5_000, slo_ms=1), '{"slo_ms": 0.001}', ""):
        assert decode(make_jpeg("red"), parameters)["PIXELS"].shape == (1, 8, 8, 3)


@pytest.mark.parametrize("parameters", ['{"slo_ms": "soon"}', '{"utility": -1}', '{"sent_unix_ms": "now"}'])
def test_bad_parameters_are_refused_as_by_the_scheduler(parameters: str, make_jpeg: Any) -> None:
    with pytest.raises(InvalidInput, match="parameter"):
        decode(make_jpeg("red"), parameters)


def test_every_late_sample_that_somebody_waits_for_is_counted(make_jpeg: Any) -> None:
    counted = Counted()
    service = DecodingService(PLAN, counted)
    service.pixels(images(make_jpeg("red")), sent(0))
    for parameters in (sent(61_000, background=True), sent(61_000)):
        with pytest.raises(Rejected):
            service.pixels(images(b"one", b"two", b"three"), parameters)
    assert counted.lost_samples == [(3, "rejected")]


def test_an_observer_that_fails_spoils_no_answer(make_jpeg: Any) -> None:
    class Broken:
        def lost(self, samples: int, outcome: str) -> None:
            raise RuntimeError("metrics are down")

    service = DecodingService(PLAN, Broken())
    for _ in range(2):
        with pytest.raises(Rejected):
            service.pixels(images(b"late"), sent(61_000))
    service.pixels(images(make_jpeg("red")), sent(0))


def test_samples_that_are_lost_to_a_failure_of_ours_are_counted(
    make_jpeg: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted()
    service = DecodingService(PLAN, counted)
    with pytest.raises(InvalidInput):
        service.pixels(images(b"no image"), "")

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("elastriton.runtime.decoding.decode_image", fail)
    for parameters in ('{"background": true}', ""):
        with pytest.raises(MemoryError):
            service.pixels(images(make_jpeg("red"), make_jpeg("blue")), parameters)
    assert counted.lost_samples == [(2, "failed")]
