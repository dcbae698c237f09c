"""Texts that merge tokens behind a real server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from elastriton.client import Client
from elastriton.core.confidence import softmax
from elastriton.core.planner import make_plan
from elastriton.core.profile import Accuracy, load_profile
from elastriton.generator.config import load_config
from elastriton.generator.goals import goals
from elastriton.generator.repository import generate
from elastriton.generator.serve import Server
from elastriton.runtime.executor import load_executor
from elastriton.runtime.texts import TextTokenizer, pad

TEXTS = ["hello " + "please two tea " * n for n in range(9)]


def test_a_merging_level_answers_as_its_executor_does(
    serve_repository: Callable[..., Server], text_project: Path, text_build: Path, tmp_path: Path
) -> None:
    profile = load_profile(text_build / "profile.json")
    best = (Accuracy.of(-20, 10, 10), Accuracy.of(0, 5, 10))  # so that the scheduler prefers the merging level
    profile = replace(profile, tasks={"intent": replace(profile.tasks["intent"], accuracy=best)})
    plan = make_plan(profile, "0" * 64, goals(load_config(text_project / "elastriton.yaml")))
    generate(plan, text_build, tmp_path / "repository")
    server = serve_repository(tmp_path / "repository")
    with Client(f"grpc://{server.grpc_url}", timeout_s=60.0) as client:
        answers = client.classify("intent", texts=TEXTS)
    executor = load_executor(plan.executors["bert_executor"], text_build)
    tokenizer = TextTokenizer(text_build / "bert_tokenizer", 32)
    temperature = plan.schedulers["bert_scheduler"].tasks["intent"].temperature
    for text, answer in zip(TEXTS, answers, strict=True):
        assert answer.gamma == -20
        logits = executor.logits(pad([tokenizer.encode([text])]), ["intent"], -20)
        assert answer.probabilities == pytest.approx(softmax(logits[0], temperature), abs=1e-4)
