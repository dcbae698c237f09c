"""What is wrong with the configured data is found before anything is measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from elastriton.core.errors import ConfigError
from elastriton.generator import profiler
from elastriton.generator.config import Config


@pytest.fixture
def project(tiny_project: Path, tmp_path: Path) -> Path:
    """A copy of the tiny project that a test may change."""
    shutil.copytree(tiny_project, tmp_path / "project")
    return tmp_path / "project"


def run(project: Path, build: Path, **tasks: Any) -> None:
    """Profile the project with other values for some tasks."""
    config = json.loads((project / "elastriton.yaml").read_text())
    for name, values in tasks.items():
        config["tasks"][name] = {**config["tasks"][name], **values}
    profiler.profile(Config.model_validate(config), project, build, budget_s=0.0, advance=lambda step: None)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({"similarity": {"data": {"path": "gone.json"}}}, "gone.json does not exist"),
        ({"colour": {"data": {"path": "intents.json"}}}, "task colour: intents.json holds 0 images; give two at least"),
        ({"intent": {"data": {"path": "images"}}}, "task intent: images holds 0 texts"),
        ({"similarity": {"data": {"path": "intents.json"}}}, "the labels of a regression must be numbers"),
        ({"colour": {"labels": ["red", "green", "yellow"]}}, "unknown label"),
        ({"intent": {"cascade": {"models": ["./gone"], "max_drop": 0.1}}}, "model folder .*gone does not exist"),
    ],
)
def test_before_the_first_export(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tasks: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(profiler, "prepare_encoder", never)
    with pytest.raises(ConfigError, match=message):
        run(project, tmp_path, **tasks)


def test_texts_that_a_cascade_could_see_twice(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiler, "prepare_encoder", never)
    (project / "intents.json").write_text(json.dumps({"items": 30 * [["hello there", "greet"]]}))
    with pytest.raises(ConfigError, match="in another split too"):
        run(project, tmp_path)


def test_all_texts_that_are_too_long_before_the_first_measurement(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiler, "latency", lambda executor, task, image, *_, **__: () if image else never())
    monkeypatch.setattr(profiler, "evaluate", never)
    items = [[f"{word} " * (30 if i % 10 == 3 else 2), "greet"] for i, word in enumerate("abcdefghijklmnopqrstuvwxyz")]
    (project / "intents.json").write_text(json.dumps({"items": items}))
    with pytest.raises(
        ConfigError,
        match=r"3 of the 26 samples cannot be used, e\.g\. item \d+: TEXT is over-long.*; raise max_length or shorten",
    ):
        run(project, tmp_path, colour={"data": None})


def test_answers_that_are_no_numbers(project: Path, tmp_path: Path, tiny_bert: Any) -> None:
    prompts = load_file(project / "prompts.safetensors")["prompts"]
    prompts[:, 3:] = np.nan
    save_file({"prompts": prompts}, project / "prompts.safetensors")
    with pytest.raises(
        ConfigError, match="encoder vit, task colour at level 4: the logits of 20 of the 20 samples are"
    ):
        run(project, tmp_path)
    shutil.copytree(tiny_bert("small", layers=1), project / "nan")
    weights = load_file(project / "nan/model.safetensors")
    weights["classifier.bias"][1] = np.inf
    save_file(weights, project / "nan/model.safetensors", {"format": "pt"})
    small = {"models": ["./nan"], "max_length": 16, "max_drop": 0.5}
    with pytest.raises(ConfigError, match=r"task intent, small model \./nan: the logits of .* samples are not finite"):
        run(project, tmp_path, intent={"cascade": small}, colour={"data": None})


@pytest.mark.parametrize(("purpose", "short"), [("judge by", range(9)), ("fit with", range(9, 30))])
def test_texts_of_which_a_small_model_can_read_none(
    project: Path, tmp_path: Path, tiny_bert: Any, purpose: str, short: range
) -> None:
    order = np.random.default_rng(0).permutation(30).tolist()  # that of generator/data.py; the first 9 are to fit
    places = {place: rank for rank, place in enumerate(order)}
    texts = [f"hello {i} " + ("" if places[i] in short else "there " * 5) for i in range(30)]
    (project / "intents.json").write_text(json.dumps({"items": [[text, "greet"] for text in texts]}))
    small = {"models": [str(tiny_bert("small", layers=1))], "max_length": 6, "max_drop": 0.5}
    with pytest.raises(ConfigError, match=f"every text to {purpose} is too long for /.*; raise max_length"):
        run(project, tmp_path, intent={"cascade": small}, colour={"data": None})


@pytest.mark.parametrize("key", ["model", "head", "data"])
def test_what_is_read_does_not_lie_where_artifacts_go(project: Path, tiny_vit: Path, key: str) -> None:
    config = json.loads((project / "elastriton.yaml").read_text())
    if key == "model":
        shutil.copytree(tiny_vit, project / "vit")
        config["encoders"]["vit"]["model"] = "vit"
    elif key == "head":
        (project / "warm_head").mkdir()
        shutil.move(project / "warm.safetensors", project / "warm_head/warm.safetensors")
        config["tasks"]["warm"]["head"] = "warm_head/warm.safetensors"
    else:
        shutil.move(project / "images", project / "colour_cascade")
        config["tasks"]["colour"]["data"]["path"] = "colour_cascade"
    before = sorted(project.rglob("*"))
    with pytest.raises(ConfigError, match=r"lies where `profile` writes, in .*; pass another --build"):
        profiler.profile(Config.model_validate(config), project, project, budget_s=0.0, advance=lambda step: None)
    assert sorted(project.rglob("*")) == before


def never(*_: object, **__: object) -> Any:
    raise AssertionError("too late")
