"""What a served repository answers, over both protocols, against the executors run right here."""

from __future__ import annotations

import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elastriton.client import Client, RejectedError
from elastriton.core.confidence import softmax
from elastriton.core.plan import Plan
from elastriton.core.records import load
from elastriton.generator.serve import Server
from elastriton.runtime.executor import load_executor
from elastriton.runtime.images import decode_image

TEXTS = ["hello there", "bye", "two tea please", "good morning", "see you"]


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url, timeout_s=60.0) as client:
        yield client


@pytest.fixture(scope="module")
def plan(tiny_build: Path) -> Plan:
    return load(Plan, tiny_build / "plan.json")


def test_images_get_the_executors_own_answers(client: Client, plan: Plan, tiny_build: Path, make_jpeg: Any) -> None:
    executor = load_executor(plan.executors["vit_executor"], tiny_build)
    images = [make_jpeg(colour, noise=i) for i, colour in enumerate(("red", "green", "blue") * 3)]
    for image, answer in zip(images, client.classify("colour", images=images), strict=True):
        pixels = decode_image(image, plan.decoders["colour_decode"].image)[None]
        logits = executor.logits({"pixels": pixels}, ["colour"], answer.gamma)
        expected = softmax(logits[0], plan.schedulers["vit_scheduler"].tasks["colour"].temperature)
        assert answer.probabilities == pytest.approx(expected, abs=1e-4)
        assert answer.label == plan.tasks["colour"].labels[int(expected.argmax())]


def test_tasks_of_one_encoder_keep_their_heads_under_concurrency(client: Client, make_jpeg: Any) -> None:
    image = make_jpeg("red")
    [alone_colour] = client.classify("colour", images=[image])
    [alone_warm] = client.classify("warm", images=[image])
    answers: dict[str, list[Any]] = {}

    def ask(task: str) -> None:
        answers[task] = client.classify(task, images=[image] * 20)

    threads = [threading.Thread(target=ask, args=(task,)) for task in ("colour", "warm")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert {answer.label for answer in answers["warm"]} == {alone_warm.label}
    for answer in answers["colour"]:
        if answer.gamma == alone_colour.gamma:
            assert answer.probabilities == pytest.approx(alone_colour.probabilities, abs=1e-4)


def test_texts_are_answered_by_the_small_model(client: Client) -> None:
    answers = client.classify("intent", texts=TEXTS)
    assert {answer.level for answer in answers} == {0}
    for answer in answers:
        assert answer.probabilities is not None
        assert answer.probabilities.sum() == pytest.approx(1.0, abs=1e-5)


def test_pairs_and_scores(client: Client) -> None:
    [answer] = client.classify("similarity", texts=[("hello there", "good morning")])
    assert answer.score is not None
    assert np.isfinite(answer.score)
    assert (answer.label, answer.level, answer.fallback) == (None, 0, False)


def test_a_deadline_that_cannot_be_met_is_rejected_at_once(client: Client, make_jpeg: Any) -> None:
    with pytest.raises(RejectedError, match="deadline cannot be met"):
        client.classify("colour", images=[make_jpeg("red")], slo_ms=0.01)


def test_a_flood_is_answered_or_rejected_but_never_lost(client: Client, make_jpeg: Any) -> None:
    image = make_jpeg("blue")
    outcomes = client.classify("colour", images=[image] * 200, slo_ms=60, return_errors=True)
    kinds = {type(outcome).__name__ for outcome in outcomes}
    assert len(outcomes) == 200
    assert kinds <= {"Answer", "RejectedError"}
    [after] = client.classify("colour", images=[image])
    assert after.label


def test_metrics_tell_what_became_of_every_sample(client: Client, tiny_server: Server, make_jpeg: Any) -> None:
    def scrape() -> list[str]:
        with urllib.request.urlopen(tiny_server.metrics_url, timeout=10) as response:
            return response.read().decode().splitlines()  # type: ignore[no-any-return]

    def total(lines: list[str], name: str, *labels: str) -> float:
        ours = [line for line in lines if line.startswith(name + "{") and all(label in line for label in labels)]
        assert ours, f"no {name} with {labels}"
        return sum(float(line.rsplit(" ", 1)[1]) for line in ours)

    def totals() -> list[float]:
        lines, model = scrape(), 'model="vit_scheduler"'
        outcomes = total(lines, "elastriton_outcomes_total", model, 'task="colour"', 'outcome="in_time"')
        utility = total(lines, "elastriton_utility_total", model)
        return [total(lines, "elastriton_samples_total", model), outcomes, utility]

    def settled() -> list[float]:
        deadline_s = time.monotonic() + 60.0
        before = totals()
        while time.monotonic() < deadline_s:
            time.sleep(0.5)  # metrics follow the answers
            before, last = totals(), before
            if before == last:
                break
        return before

    before = settled()
    client.classify("colour", images=[make_jpeg("red")] * 3, slo_ms=30_000)
    after = settled()
    assert after[:2] == [before[0] + 3, before[1] + 3]
    assert before[2] < after[2] <= before[2] + 3
    late = client.classify("colour", images=[make_jpeg("red")] * 10, slo_ms=0.01, return_errors=True)
    assert {type(outcome) for outcome in late} == {RejectedError}
    settled()
    lines = scrape()
    assert total(lines, "elastriton_outcomes_total", 'model="colour_decode"', 'outcome="rejected"') > 0
    assert total(lines, "elastriton_batch_predicted_ms_count", 'model="vit_scheduler"') > 0
    assert total(lines, "elastriton_latency_drift", 'quantile="0.99"') >= 1.0
