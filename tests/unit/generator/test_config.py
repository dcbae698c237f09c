"""elastriton.yaml: what is accepted, and how mistakes are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from elastriton.core.errors import ConfigError
from elastriton.generator.config import load_config, resolve

GOOD: dict[str, Any] = {
    "version": 1,
    "encoders": {"vit": {"kind": "vision", "model": "vit_tiny_patch16_224", "levels": [-8, 0, 4]}},
    "tasks": {"pets": {"encoder": "vit", "slo_ms": 100}},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(yaml.safe_dump(GOOD))
    *parents, last = path.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    node[last] = value
    return config


def write(tmp_path: Path, config: Any) -> Path:
    path = tmp_path / "elastriton.yaml"
    path.write_text(config if isinstance(config, str) else yaml.safe_dump(config), encoding="utf-8")
    return path


def test_a_good_file_is_read_with_defaults(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD))
    assert config.encoders["vit"].levels == (-8, 0, 4)
    assert config.tasks["pets"].utility == 1.0
    assert config.policy == "joint"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("sede", 3, "there is no key 'sede'; did you mean 'seed'?"),
        ("encoders.vit.level", [0], "did you mean 'levels'?"),
        ("tasks.pets.slo", 3, "did you mean 'slo_ms'?"),
        ("tasks.pets.data", {"path": "x", "sample": 3}, "did you mean 'samples'?"),
        ("tasks.pets.cascade", {"models": ["x"], "max_drops": 0.1}, "did you mean 'max_drop'?"),
        ("tasks.pets.cascade", {"models": ["x"], "max_drop": 0.1, "audit": {"shares": 1}}, "did you mean 'share'?"),
        ("tasks.pets.cascade", {"models": ["x"]}, "give one of max_drop and target_accuracy"),
        ("tasks.pets.cascade", {"models": ["x"], "max_drop": 0.1, "target_accuracy": 0.9}, "give one of max_drop and"),
        ("tasks.pets.cascade", {"models": [], "max_drop": 0.1}, "at least 1 item"),
        ("tasks.pets.cascade", {"models": ["x"], "max_drop": 0.1}, "has a cascade but no data to certify it with"),
        ("version", 2, "version"),
        ("tasks.pets.slo_ms", -1, "greater than 0"),
        ("tasks.pets.utility", 2e6, "less than or equal to 1000000"),
        ("tasks.pets.slo_ms", 600_001, "less than or equal to 600000"),
        ("tasks.pets.encoder", "vot", "names encoder 'vot'"),
        ("encoders.vit.levels", [-8, 4], "lack 0"),
        ("encoders.vit.levels", [-8, 0, -8], "levels [-8, 0, -8] name -8 twice"),
        ("encoders.vit.levels", [0, True], "true and false (to YAML also yes, no, on, off) are no value here"),
        ("tasks.pets.slo_ms", True, "tasks.pets.slo_ms: true and false (to YAML also yes, no, on, off) are no value"),
        ("tasks.pets.labels", [True, False], "are no value here; quote what is a text"),
        ("tasks.pets.labels", [], "tasks.pets.labels: Tuple should have at least 1 item"),
        ("tasks.pets.labels", ["cat", "dog", "cat"], "tasks.pets: labels name 'cat' twice; give each class a name of"),
        ("version", True, "version: true and false"),
        ("encoders.vit.precision", "fp16", "precision 'fp16' is for runtime 'torch'; exported graphs are fp32"),
        ("encoders.vit.schedule", "serach", "'constant' or 'search'"),
        ("encoders.vit", {"kind": "text", "model": "m", "schedule": "search"}, "'search' is for vision encoders"),
        ("encoders.vit.kind", "audio", "'vision' or 'text'"),
        ("policy", "magic", "policy 'magic' is unknown"),
        ("max_queue", 31, "max_queue 31 is below 32, the largest batch of encoder vit"),
        ("tasks.pets.inputs", 2, "vision task"),
        ("encoders.idle", {"kind": "vision", "model": "x"}, "encoder idle has no task"),
        ("tasks.Pets!", {"encoder": "vit", "slo_ms": 1}, "pattern"),
        ("tasks.pets.slo_ms", float("inf"), "finite"),
        ("encoders.vit.batches", [], "at least 1 item"),
        ("seed", -1, "greater than or equal to 0"),
        ("tasks.pets.objective", "ranking", "'classification' or 'regression'"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, path: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, changed(path, value)))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("encoder", "task", "message"),
    [
        ("vit", "pets_cascade", "the cascade of task pets and task pets_cascade would both be the model"),
        ("vit", "pets_decode", "the decoder of task pets and task pets_decode would both be the model"),
        ("vit", "vit_executor", "the executor of encoder vit and task vit_executor would both be the model"),
        ("vit", "vit_scheduler", "the scheduler of encoder vit and task vit_scheduler would both be the model"),
        ("pets_head", "more", "encoder pets_head and the head of task pets would both be the artifact"),
        ("vit_tokenizer", "more", "the tokenizer of encoder vit and encoder vit_tokenizer would both be the artifact"),
        ("pets_small2", "more", "encoder pets_small2 and a small model of task pets would both be the artifact"),
    ],
)
def test_two_models_or_artifacts_of_one_name_are_refused(tmp_path: Path, encoder: str, task: str, message: str) -> None:
    config = changed(f"tasks.{task}", {"encoder": encoder, "slo_ms": 100})
    config["encoders"][encoder] = config["encoders"]["vit"]
    with pytest.raises(ConfigError, match=f"{message} '[a-z0-9_]+'; rename one of them"):
        load_config(write(tmp_path, config))


def test_an_encoder_may_have_the_name_of_its_task(tmp_path: Path) -> None:
    config = changed("tasks.vit", {"encoder": "vit", "slo_ms": 100})
    assert load_config(write(tmp_path, config)).tasks.keys() == {"pets", "vit"}


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    config = changed("sede", 3)
    config["tasks"]["pets"]["slo_ms"] = 0
    with pytest.raises(ConfigError, match=r"2 mistake\(s\)"):
        load_config(write(tmp_path, config))


def test_what_is_true_or_false_may_be(tmp_path: Path) -> None:
    audit = {"models": ["x"], "max_drop": 0.1, "audit": {"fall_back": True}}
    config = changed("tasks.pets.cascade", audit)
    config["tasks"]["pets"]["data"] = {"path": "x"}
    with pytest.raises(ConfigError, match="answers at level 4; leave out audit, or the levels above 0 of encoder vit"):
        load_config(write(tmp_path, config))
    config["encoders"]["vit"]["levels"] = [-8, 0]
    cascade = load_config(write(tmp_path, config)).tasks["pets"].cascade
    assert cascade is not None
    assert cascade.audit is not None
    assert cascade.audit.fall_back


def text_levels(levels: list[int]) -> dict[str, Any]:
    text = {"kind": "text", "model": "m", "levels": levels}
    return {"version": 1, "encoders": {"bert": text}, "tasks": {"t": {"encoder": "bert", "slo_ms": 1}}}


def test_text_encoders_have_levels_of_both_signs(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, text_levels([-50, -8, 0, 4])))
    assert config.encoders["bert"].levels == (-50, -8, 0, 4)


def test_text_encoders_merge_at_most_half(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="text encoders take -50 to 0, the per cent of tokens that a layer merges"):
        load_config(write(tmp_path, text_levels([-51, 0, 4])))


def test_no_file_and_no_yaml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match="not YAML"):
        load_config(write(tmp_path, "a: [1"))
    with pytest.raises(ConfigError, match="key 'seed' is given twice"):
        load_config(write(tmp_path, "version: 1\nseed: 1\nseed: 2\n"))
    for text, message in (
        ("? [a, b]\n: c\n", "a key must be plain text"),
        ('seed: "\\0"', r"must not contain NUL"),
        ("a: " + "[" * 5000, "nested too deeply"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_config(write(tmp_path, text))
    (tmp_path / "latin.yaml").write_bytes("# caf\u00e9".encode("latin-1"))
    for path in (tmp_path / "latin.yaml", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            load_config(path)


def test_a_model_is_a_folder_or_an_id(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert resolve("mine", tmp_path) == str(tmp_path / "mine")
    assert resolve("vit_tiny_patch16_224", tmp_path) == "vit_tiny_patch16_224"
    with pytest.raises(ConfigError, match="does not exist"):
        resolve("./gone", tmp_path)
