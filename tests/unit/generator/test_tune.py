"""`elastriton tune` on tiny encoders: what is trained, what stays, and what the file is good for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from elastriton.core.errors import ConfigError
from elastriton.core.levels import TokenLevel
from elastriton.core.profile import Accuracy
from elastriton.generator.adapt import Training, train_low_rank, train_prompts
from elastriton.generator.cli import app
from elastriton.generator.config import Config, load_config
from elastriton.generator.prepare import prepare_encoder
from elastriton.generator.profiler import profile
from elastriton.generator.show import show_tuning
from elastriton.generator.tunable import (
    ImageSamples,
    Samples,
    TextSamples,
    Tunable,
    TunableText,
    TunableVision,
    shifted,
)
from elastriton.generator.tune import Trained, Tuning, prompts_file, tune
from elastriton.runtime.models import load_text, load_vision
from elastriton.runtime.texts import Encoding
from elastriton.runtime.vit import ElasticViT

TRAINING = Training(epochs=12, minutes=5.0, batch=8, learning_rate=0.05)


def silent(step: str) -> None:
    pass


@pytest.fixture(params=["vision", "text"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(kind: str, tiny_vit: Path, text_project: Path) -> Tunable:
    """A tiny model, its parameters far from their initial values: near these nothing depends on the prompts."""
    if kind == "text":
        text = load_text(load_config(text_project / "elastriton.yaml").encoders["bert"].model)
        assert text.head is not None
        return TunableText(text, text.head.weight, text.head.bias)
    vision = load_vision(str(tiny_vit))
    assert vision.head is not None
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in vision.encoder.vit.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    pixels = timm.data.resolve_model_data_config(vision.encoder.vit)
    encoder = ElasticViT(vision.encoder.vit, pixels["mean"], pixels["std"])  # its patch embedding is a copy
    return TunableVision(replace(vision, encoder=encoder), vision.head.weight, vision.head.bias)


@pytest.fixture
def samples(kind: str) -> Samples:
    """Three colours, a little noisy; or texts that hold one of three words among others."""
    generator = torch.Generator().manual_seed(0)
    numbers = torch.arange(24) % 3
    if kind == "text":
        return TextSamples([_text(int(number), generator) for number in numbers], numbers)
    pixels = torch.randint(0, 60, (24, 32, 32, 3), dtype=torch.uint8, generator=generator)
    pixels[torch.arange(24), :, :, numbers] += 180
    return ImageSamples(pixels, numbers)


def _text(number: int, generator: torch.Generator) -> Encoding:
    others = torch.randint(7, 17, (int(torch.randint(1, 9, (), generator=generator)),), generator=generator)
    ids = np.array([2, *others.tolist(), 4 + number, 3], np.int64)
    return Encoding(ids, np.zeros_like(ids))


def everything(samples: Samples) -> dict[str, torch.Tensor]:
    return samples.batch(torch.arange(len(samples.numbers)))


def loss(model: Tunable, samples: Samples, prompts: torch.Tensor | None = None) -> float:
    with torch.inference_mode():
        return float(torch.nn.functional.cross_entropy(model(everything(samples), prompts), samples.numbers))


@pytest.mark.parametrize("layers", [1, 3])
def test_prompts_lower_the_loss_at_every_prefix(kind: str, model: Tunable, samples: Samples, layers: int) -> None:
    prompts, losses = train_prompts(model, layers, 4, samples, TRAINING, silent)
    assert prompts.shape == (layers, 4, model.width)
    assert len(losses) == 12 * 3
    for prefix in (1, 2, 3, 4):
        assert loss(model, samples, prompts[:, :prefix]) < (0.95 if kind == "vision" else 0.99) * loss(model, samples)


def test_encoder_and_head_stay_frozen(model: Tunable, samples: Samples) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train_prompts(model, 3, 4, samples, replace(TRAINING, epochs=2), silent)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_control_lowers_the_loss_and_is_merged(kind: str, model: Tunable, samples: Samples) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plain = loss(model, samples)
    trained, losses = train_low_rank(model, 2, 36, samples, TRAINING, silent)
    assert trained == 3 * 2 * (4 * model.width)
    assert len(losses) == 36
    after = model.state_dict()
    assert after.keys() == before.keys()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    if kind == "vision":
        assert {name.rsplit(".", 1)[1] for name in changed} == {"weight", "q_weight", "kv_weight"}
        assert all("qkv" in name or name.startswith("encoder.last.") for name in changed)
    else:
        assert {name.split(".self.")[1] for name in changed} == {"query.weight", "value.weight"}
        assert len(changed) == 2 * 3
    assert loss(model, samples) < 0.95 * plain
    with torch.inference_mode():
        inputs = everything(samples)
        torch.testing.assert_close(model(inputs), model.changeable(inputs), rtol=1e-4, atol=1e-5)


def test_the_time_limit_ends_training(model: Tunable, samples: Samples) -> None:
    _, losses = train_prompts(model, 1, 2, samples, replace(TRAINING, epochs=10**6, minutes=0.01), silent)
    assert 1 <= len(losses) < 10**6


def test_shifts_move_pixels_and_invent_none() -> None:
    column = torch.arange(32, dtype=torch.uint8)
    pixels = column[:, None, None].expand(32, 32, 3)[None].repeat(16, 1, 1, 1)
    moved = shifted(pixels, torch.Generator().manual_seed(0))
    assert moved.shape == pixels.shape
    assert moved.dtype == torch.uint8
    steps = {int(image[16, 0, 0]) - 16 for image in moved}
    assert steps <= {-2, -1, 0, 1, 2}
    assert len(steps) > 1


@pytest.fixture
def project(tmp_path: Path, tiny_project: Path) -> Any:
    """Writes the tiny project's vision half with changes to its task `colour`, and returns the file."""

    def write(**changes: Any) -> Path:
        config = json.loads((tiny_project / "elastriton.yaml").read_text())
        colour = {**config["tasks"]["colour"], "prompts": str(tmp_path / "prompts.safetensors"), **changes}
        colour["data"] = {"path": str(tiny_project / "images"), "samples": 20}
        kept = {"colour": {key: value for key, value in colour.items() if value is not None}}
        encoders = {"vit": config["encoders"]["vit"]}
        (tmp_path / "elastriton.yaml").write_text(json.dumps({"version": 1, "encoders": encoders, "tasks": kept}))
        return tmp_path / "elastriton.yaml"

    return write


def test_the_command_writes_prompts_that_prepare_loads(tmp_path: Path, project: Any) -> None:
    config = project()
    arguments = ["tune", "--task", "colour", "-c", str(config), "--epochs", "1", "--json", str(tmp_path / "out.json")]
    ran = CliRunner().invoke(app, arguments)
    assert ran.exit_code == 0, ran.output
    assert "control" in ran.output
    assert load_file(tmp_path / "prompts.safetensors")["prompts"].shape == (3, 4, 24)
    out = json.loads((tmp_path / "out.json").read_text())
    assert [point["gamma"] for point in out["prompts"]["accuracy"]] == [2, 4]
    assert (out["n_train"], out["plain"]["n"], out["control"]["accuracy"][0]["n"]) == (6, 14, 14)
    assert out["prompts"]["parameters"] == 3 * 4 * 24 == out["control"]["parameters"]
    settings = load_config(config)
    encoder = settings.encoders["vit"].model_copy(update={"levels": (0, 4)})
    prepared = prepare_encoder(
        "vit", settings.model_copy(update={"encoders": {"vit": encoder}}), tmp_path, tmp_path / "build", silent
    )
    assert prepared.plan.levels == (TokenLevel(0), TokenLevel(4, prompts=4))


def test_other_data_to_train_on(tmp_path: Path, project: Any, make_jpeg: Any) -> None:
    for colour in ("red", "green", "blue"):
        (tmp_path / "others" / colour).mkdir(parents=True)
        for noise in range(8, 16):
            (tmp_path / "others" / colour / f"{noise}.jpg").write_bytes(make_jpeg(colour, noise=noise))
    result = tune(
        "colour",
        load_config(project()),
        tmp_path,
        tmp_path / "elsewhere" / "prompts.safetensors",
        data=tmp_path / "others",
        shallow=True,
        training=replace(TRAINING, epochs=1),
        advance=silent,
    )
    assert (result.n_train, result.layers) == (24, 1)
    assert load_file(tmp_path / "elsewhere" / "prompts.safetensors")["prompts"].shape == (1, 4, 24)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("images", r"task colour: 14 of the 14 samples to judge by, e\.g\. .*\.jpg, are among those to train on"),
        ("intents.json", r"task colour: .*intents\.json holds 0 images; give two at least"),
    ],
)
def test_data_that_nothing_can_be_learnt_from(
    tmp_path: Path, project: Any, tiny_project: Path, data: str, message: str
) -> None:
    settings, other = load_config(project()), tiny_project / data
    with pytest.raises(ConfigError, match=message):
        tune("colour", settings, tmp_path, tmp_path / "p", data=other, shallow=True, training=TRAINING, advance=silent)


def test_prompts_that_do_worse_than_none_come_with_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    plain, control = Accuracy.of(0, 80, 100), Trained(96, 3, (Accuracy.of(0, 80, 100),))
    prompts = Trained(96, 3, (Accuracy.of(2, 75, 100), Accuracy.of(4, 60, 100)))
    show_tuning(Tuning("colour", 1, 50, plain, prompts, control))
    said = " ".join(capsys.readouterr().out.split())
    assert "warning: at level 4 the prompts do worse than none (60.0%, level 0 has 71.1% at least)" in said
    assert said.count("warning") == 1


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("color", {}, "there is no task 'color'; the configuration has colour"),
        ("colour", {"levels": [-4, 0]}, "has no level above 0 in"),
        ("colour", {"data": None}, "has no `data`"),
        ("colour", {"objective": "regression"}, "is no classification"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, project: Any, task: str, changes: Any, message: str) -> None:
    settings = load_config(project())
    encoder = settings.encoders["vit"]
    if "levels" in changes:
        encoder = encoder.model_copy(update=changes)
    colour = settings.tasks["colour"].model_copy(update=changes)
    changed = Config.model_construct(version=1, encoders={"vit": encoder}, tasks={"colour": colour})
    with pytest.raises(ConfigError, match=message):
        tune(task, changed, tmp_path, tmp_path / "p", data=None, shallow=False, training=TRAINING, advance=silent)


def test_a_task_without_a_file_for_its_prompts(tmp_path: Path, project: Any) -> None:
    settings = load_config(project(prompts=None))
    assert prompts_file("colour", settings, tmp_path, tmp_path / "here") == tmp_path / "here"
    with pytest.raises(ConfigError, match="names no file of prompts"):
        prompts_file("colour", settings, tmp_path, None)


def test_prompts_for_texts_are_written_exported_and_judged(tmp_path: Path, text_project: Path) -> None:
    config = json.loads((text_project / "elastriton.yaml").read_text())
    config["encoders"]["bert"]["levels"] = [-20, 0, 2, 4]
    config["tasks"]["intent"] |= {"prompts": "prompts.safetensors"}
    config["tasks"]["intent"]["data"]["path"] = str(text_project / "intents.json")
    (tmp_path / "elastriton.yaml").write_text(json.dumps(config))
    settings, prompts = load_config(tmp_path / "elastriton.yaml"), tmp_path / "prompts.safetensors"
    short = replace(TRAINING, epochs=1)
    result = tune(
        "intent", settings, tmp_path, prompts, data=None, shallow=False, training=short, advance=silent
    )  # fmt: skip
    assert [point.gamma for point in result.prompts.accuracy] == [2, 4]
    assert result.prompts.parameters == 3 * 4 * 24 == result.control.parameters
    measured = profile(settings, tmp_path, tmp_path, budget_s=0.0, advance=silent)
    judged = {point.gamma: point for point in measured.tasks["intent"].accuracy}
    assert set(judged) == {-20, 0, 2, 4}
    assert (judged[2], judged[4]) == result.prompts.accuracy, "the exported graphs answer as in training"
    assert {cell.gamma for cell in measured.encoders["bert"].latency} == {-20, 0, 2, 4}
