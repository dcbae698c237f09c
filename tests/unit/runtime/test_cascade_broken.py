"""Small models that compute no numbers: they have no say, and the others answer in their place."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cascade_service import (
    EASY,
    HARD,
    Counts,
    answers,
    arrays,
    at,
    intent,
    large,
    reject,
    request,
    serving,
    similarity,
    small_probabilities,
)

from elastriton.core.confidence import Score
from elastriton.core.errors import Rejected
from elastriton.core.plan import CascadePlan
from elastriton.runtime.cascading import CascadeService
from elastriton.runtime.executor import Arrays
from elastriton.runtime.scheduling import Call, Parameters

LARGE = [0.1, 0.1, 0.8]


@pytest.fixture(scope="module")
def plan(tiny_build: Path) -> CascadePlan:
    return intent(tiny_build)


@contextmanager
def broken(
    plan: CascadePlan, folder: Path, call: Call = large, *, level: int, counts: Counts | None = None
) -> Iterator[CascadeService]:
    """The service with a small model that says NaN of the first text of each batch, the shortest."""
    with serving(plan, folder, call, counts) as service:
        model = service._small[level]._model
        run = model.run

        def first_nan(inputs: Arrays) -> object:
            outputs = run(inputs)
            outputs.logits[0] = np.nan
            return outputs

        model.run = first_nan  # type: ignore[method-assign, assignment]
        yield service


@pytest.mark.parametrize("score", ["max", "margin", "pnorm"])
def test_the_large_model_answers_alone_and_a_neighbour_loses_nothing(
    plan: CascadePlan, tiny_build: Path, score: Score, caplog: pytest.LogCaptureFixture
) -> None:
    half = replace(at(plan, 1.1), small_weight=0.5, score=score)
    with caplog.at_level(logging.ERROR), broken(half, tiny_build, level=0) as service:
        for _ in range(2):
            (outcome,) = map(arrays, answers(service, request(HARD, EASY)))
    np.testing.assert_allclose(outcome["PROBABILITIES"][0], LARGE, atol=1e-6)
    expected = 0.5 * small_probabilities(plan, tiny_build, EASY)[0] + 0.5 * np.array(LARGE)
    np.testing.assert_allclose(outcome["PROBABILITIES"][1], expected, atol=1e-5)
    assert [record.message for record in caplog.records] == [
        "small model 0 returned logits that are not finite; others answer in its place"
    ]


def test_where_the_large_model_has_no_time_there_is_no_answer_of_nans(plan: CascadePlan, tiny_build: Path) -> None:
    counts = Counts()
    with broken(at(plan, 1.1), tiny_build, reject, level=0, counts=counts) as service:
        nothing, fine = answers(service, request(HARD), request(EASY))
        counts.wait_for_outcomes(2)
    assert type(nothing) is Rejected
    assert arrays(fine)["FALLBACK"].tolist() == [[True]]
    assert sorted(counts.outcomes) == ["in_time", "rejected"]


@pytest.mark.parametrize(("first", "answered"), [(0, 1), (1, 2)])
def test_of_two_small_models_the_other_one_is_heard(
    plan: CascadePlan, tiny_build: Path, first: int, answered: int
) -> None:
    stages = replace(at(plan, 1.1, 0.0), small_weight=0.5)
    with broken(stages, tiny_build, level=first) as service:
        (outcome,) = map(arrays, answers(service, request(HARD)))
    assert outcome["LEVEL"].tolist() == [[answered]]
    assert np.isfinite(outcome["PROBABILITIES"]).all()
    with broken(at(plan, 1.1, 1.1), tiny_build, reject, level=first) as service:
        (outcome,) = map(arrays, answers(service, request(HARD)))
    assert (outcome["LEVEL"].tolist(), outcome["FALLBACK"].tolist()) == ([[1 - first]], [[True]])
    assert np.isfinite(outcome["PROBABILITIES"]).all()


def test_a_regression_is_the_large_model_s_alone(tiny_build: Path) -> None:
    def call(model: str, inputs: Arrays, parameters: Parameters, request_id: str) -> Arrays:
        return {"SCORE": np.array([[4.0]], np.float32), "GAMMA": np.array([[0]], np.int32)}

    half = replace(at(similarity(tiny_build), -1e9), small_weight=0.5)
    with broken(half, tiny_build, call, level=0) as service:
        (outcome,) = map(arrays, answers(service, request(("buy", "tea"))))
    assert (outcome["SCORE"].tolist(), outcome["LEVEL"].tolist()) == ([[4.0]], [[1]])
