"""Merging a delta into a base encoder, with tiny tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from elastriton.core.errors import ConfigError
from elastriton.generator.lora import DeltaError, merge_delta, whole_model

QUERY = "encoder.layer.{}.attention.self.query"
CONFIG: dict[str, Any] = {"model_type": "bert", "num_hidden_layers": 1, "id2label": {"0": "no", "1": "yes"}}
Arrays = dict[str, Any]


def make_base(folder: Path, prefix: str = "", kind: Any = np.float32) -> Arrays:
    """A base with two layers, a tokenizer file, a position buffer and a language-model head; returns its tensors."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    tensors = {QUERY.format(layer) + ".weight": rng.standard_normal((4, 6)).astype(kind) for layer in range(2)}
    tensors["pooler.dense.weight"] = rng.standard_normal((4, 4)).astype(kind)
    stored: Arrays = {prefix + name: value for name, value in tensors.items()}
    stored |= {prefix + "embeddings.position_ids": np.arange(3), "cls.predictions.bias": np.zeros(3, kind)}
    save_file(stored, folder / "model.safetensors")
    (folder / "vocab.txt").write_text("[PAD]\n")
    return tensors


def make_delta(
    folder: Path, config: Arrays = CONFIG, scale: str | None = "0.5", base: str | None = None, **changes: Any
) -> Arrays:
    """A delta of rank 2 on the query of layer 0, a pooler and a head; `changes` with value None remove a tensor."""
    rng = np.random.default_rng(1)
    folder.mkdir()
    module = "bert." + QUERY.format(0)
    tensors: Arrays = {
        f"{module}.lora_A": rng.standard_normal((2, 6)).astype(np.float16),
        f"{module}.lora_B": rng.standard_normal((4, 2)).astype(np.float16),
        "bert.pooler.dense.weight": rng.standard_normal((4, 4)).astype(np.float16),
        "classifier.weight": rng.standard_normal((2, 4)).astype(np.float16),
        "classifier.bias": np.zeros(2, np.float16),
    } | changes
    tensors = {name: value for name, value in tensors.items() if value is not None}
    entries = {"scale": scale, "base": base}
    metadata = {name: value for name, value in entries.items() if value is not None}
    save_file(tensors, folder / "delta.safetensors", metadata or None)
    (folder / "config.json").write_text(json.dumps(config))
    return tensors


@pytest.mark.parametrize("prefix", ["", "bert."])
@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_merges_in_fp32_and_drops_what_the_classifier_does_not_need(tmp_path: Path, prefix: str, kind: Any) -> None:
    base = make_base(tmp_path / "base", prefix, kind)
    delta = make_delta(tmp_path / "delta")
    merge_delta(tmp_path / "base", tmp_path / "delta", tmp_path / "model")
    merged = load_file(tmp_path / "model" / "model.safetensors")
    module = "bert." + QUERY.format(0)
    assert set(merged) == {f"{module}.weight", "bert.pooler.dense.weight", "classifier.weight", "classifier.bias"}
    assert {value.dtype for value in merged.values()} == {np.dtype(np.float32)}
    a, b = (delta[f"{module}.lora_{x}"].astype(np.float32) for x in "AB")
    expected = base[QUERY.format(0) + ".weight"].astype(np.float32) + 0.5 * b @ a
    np.testing.assert_allclose(merged[f"{module}.weight"], expected, rtol=1e-6)
    np.testing.assert_array_equal(merged["bert.pooler.dense.weight"], delta["bert.pooler.dense.weight"])
    assert json.loads((tmp_path / "model" / "config.json").read_text()) == CONFIG
    assert (tmp_path / "model" / "vocab.txt").read_text() == "[PAD]\n"


MODULE = "bert." + QUERY.format(0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({f"{MODULE}.lora_B": None}, "only one of lora_A and lora_B"),
        ({f"{MODULE}.lora_B": np.zeros((5, 2), np.float16)}, "does not fit"),
        ({"x.lora_A": np.zeros((2, 6), np.float16), "x.lora_B": np.zeros((4, 2), np.float16)}, "base model lacks"),
        ({"classifier.weight": None}, "no classes"),
        ({"classifier.weight": np.zeros((3, 4), np.float16)}, "3 classes"),
        ({"scale": None}, "'scale'"),
        ({"scale": "big"}, "'scale'"),
        ({"config": CONFIG | {"num_hidden_layers": 3}}, "2 of the 3 layers"),
        ({"config": {}}, "missing or incomplete"),
    ],
)
def test_says_what_does_not_fit_and_leaves_nothing(tmp_path: Path, changes: Arrays, message: str) -> None:
    make_base(tmp_path / "base")
    make_delta(tmp_path / "delta", **changes)
    with pytest.raises(DeltaError, match=message):
        merge_delta(tmp_path / "base", tmp_path / "delta", tmp_path / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "delta"]


def test_a_folder_without_a_delta_is_taken_as_it_is(tmp_path: Path) -> None:
    make_base(tmp_path / "base")
    for source in (str(tmp_path / "base"), "some/hub-id"):
        with whole_model(source) as folder:
            assert folder == source


def test_a_delta_becomes_a_whole_model_for_as_long_as_needed(tmp_path: Path) -> None:
    make_base(tmp_path / "base")
    make_delta(tmp_path / "delta", base="../base")
    with whole_model(str(tmp_path / "delta")) as folder:
        assert (Path(folder) / "model.safetensors").is_file()
        assert Path(folder).name == "delta"
    assert not Path(folder).exists()


def test_an_error_over_a_merged_model_names_the_folder_of_the_delta(tmp_path: Path) -> None:
    make_base(tmp_path / "base")
    make_delta(tmp_path / "delta", base="../base")
    expected = pytest.raises(ConfigError, match=f"^model '{tmp_path}/delta' cannot be loaded")
    with expected, whole_model(str(tmp_path / "delta")) as folder:
        raise ConfigError(f"model {folder!r} cannot be loaded")


def test_the_base_may_be_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "base_of_test"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    make_base(package / "model")
    make_delta(tmp_path / "delta", base="base_of_test")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with whole_model(str(tmp_path / "delta")) as folder:
        assert (Path(folder) / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("base", "message"), [(None, "lacks the metadata 'base'"), ("no_such_base", "pip install no-such-base")]
)
def test_a_base_that_is_not_at_hand_is_named(tmp_path: Path, base: str | None, message: str) -> None:
    make_delta(tmp_path / "delta", base=base)
    with pytest.raises(DeltaError, match=message), whole_model(str(tmp_path / "delta")):
        pass


def test_says_which_file_is_missing_or_broken(tmp_path: Path) -> None:
    make_delta(tmp_path / "delta")
    with pytest.raises(DeltaError, match="does not exist"):
        merge_delta(tmp_path / "none", tmp_path / "delta", tmp_path / "model")
    (tmp_path / "delta" / "delta.safetensors").write_bytes(b"not tensors")
    with pytest.raises(DeltaError, match="not a readable safetensors file"):
        merge_delta(tmp_path / "none", tmp_path / "delta", tmp_path / "model")
