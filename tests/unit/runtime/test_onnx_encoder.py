from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
import torch

from elastriton.core.levels import TokenLevel
from elastriton.core.profile import load_profile
from elastriton.generator.weights import PACKED
from elastriton.runtime import onnx_encoder
from elastriton.runtime.executor import Arrays, Floats
from elastriton.runtime.files import WEIGHTS_FILE, graph_file
from elastriton.runtime.models import load_text, load_vision
from elastriton.runtime.onnx_encoder import OnnxEncoder, return_freed_memory, session_options

GAMMAS = (-4, -2, 0, 2, 4)
EXTERNAL = onnx.TensorProto.EXTERNAL


def in_torch(encoder: Any, inputs: Arrays, level: TokenLevel) -> Floats:
    with torch.inference_mode():
        features = encoder(**{name: torch.from_numpy(array) for name, array in inputs.items()}, level=level)
    return np.asarray(features.numpy())


@pytest.fixture(scope="module")
def levels(tiny_build: Path) -> dict[int, TokenLevel]:
    return {level.gamma: level for level in load_profile(tiny_build / "profile.json").encoders["vit"].levels}


@pytest.fixture(scope="module")
def vision(tiny_build: Path) -> OnnxEncoder:
    return OnnxEncoder(tiny_build / "vit", GAMMAS, threads=1)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_vision_graphs_equal_torch_at_every_level_and_batch_size(
    vision: OnnxEncoder, tiny_vit: Path, levels: dict[int, TokenLevel], gamma: int
) -> None:
    encoder = load_vision(str(tiny_vit)).encoder
    generator = np.random.default_rng(0)
    plain = levels[0]
    for batch in (1, 3, 8):
        inputs: Arrays = {"pixels": generator.integers(0, 256, (batch, 32, 32, 3), dtype=np.uint8)}
        unprompted = vision.features(inputs, plain)
        if gamma > 0:
            inputs["prompts"] = generator.normal(size=(batch, 3, gamma, 24)).astype(np.float32)
        features = vision.features(inputs, levels[gamma])
        assert features.shape == (batch, 24)
        np.testing.assert_allclose(features, in_torch(encoder, inputs, levels[gamma]), atol=1e-4)
        if gamma:
            assert np.abs(features - unprompted).max() > 1e-3


@pytest.mark.parametrize(("batch", "length"), [(1, 16), (3, 7), (8, 2)])
def test_text_graphs_equal_torch_for_any_batch_and_length(
    tiny_build: Path, tiny_bert: Any, batch: int, length: int
) -> None:
    model = load_text(str(tiny_bert("again", layers=3)))
    generator = np.random.default_rng(batch)
    mask = (np.arange(length) < generator.integers(1, length + 1, (batch, 1))).astype(np.int64)
    ids = generator.integers(0, 17, (batch, length)) * mask
    inputs: Arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": generator.integers(0, 2, ids.shape)}
    features = OnnxEncoder(tiny_build / "bert", [0], threads=1).features(inputs, TokenLevel(0))
    np.testing.assert_allclose(features, in_torch(model.encoder, inputs, TokenLevel(0)), atol=1e-4)


def test_padding_changes_no_sample(tiny_build: Path) -> None:
    encoder = OnnxEncoder(tiny_build / "bert", [0], threads=1)
    ids = np.array([[2, 4, 5, 3]])
    inputs: Arrays = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    padded = {name: np.pad(array, ((0, 0), (0, 9))) for name, array in inputs.items()}
    alone = encoder.features(inputs, TokenLevel(0))
    np.testing.assert_allclose(encoder.features(padded, TokenLevel(0)), alone, atol=1e-5)


def test_all_levels_share_one_file_that_holds_each_tensor_and_each_packed_matrix_once(tiny_build: Path) -> None:
    file = (tiny_build / "vit" / WEIGHTS_FILE).read_bytes()
    ranges: set[tuple[int, int]] = set()
    wanted, packed = 0, []
    for gamma in GAMMAS:
        places = stored(tiny_build / "vit", gamma)
        packed.append([place["prepacked_0"] for place in places if "prepacked_0" in place])
        for place in places:
            assert place["location"] == WEIGHTS_FILE
            blocks = [block.split(";") for block in place.get("prepacked_0", "").split("|")[1:]]
            for offset, length, *_ in [(place["offset"], place["length"]), *blocks]:
                ranges.add((int(offset), int(length)))
                wanted += int(length)
    assert len(packed[0]) == 1 + 2 * 4 + 5, "all matrices: patches, four per block; the last asks for CLS alone"
    assert all(entries == packed[0] for entries in packed)
    ordered = sorted(ranges)
    assert all(start + length <= after for (start, length), (after, _) in pairwise(ordered))
    assert len({file[start : start + length] for start, length in ordered}) == len(ordered)
    once = sum(length for _, length in ordered)
    assert once * 4 < wanted
    assert len(file) == sum(ordered[-1])
    assert len(file) < once + 4096 * len(ordered)


def stored(folder: Path, gamma: int) -> list[dict[str, str]]:
    """Where a graph's large tensors are."""
    model = onnx.load(folder / graph_file(gamma), load_external_data=False)
    tensors = [tensor for tensor in model.graph.initializer if tensor.data_location == EXTERNAL]
    return [{entry.key: entry.value for entry in tensor.external_data} for tensor in tensors]


@pytest.mark.parametrize("gamma", [-4, 0])
def test_every_graph_multiplies_by_the_packed_matrices_of_the_file_unless_its_own_differ(
    tiny_build: Path, tmp_path: Path, levels: dict[int, TokenLevel], gamma: int
) -> None:
    folder = tmp_path / "vit"
    shutil.copytree(tiny_build / "vit", folder)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    before = OnnxEncoder(folder, [gamma], 1).features({"pixels": pixels}, levels[gamma])
    spoil_packed(folder, gamma)
    after, refusal = before, ""
    try:
        after = OnnxEncoder(folder, [gamma], 1).features({"pixels": pixels}, levels[gamma])
    except Exception as error:  # onnxruntime 1.32 compares them with its own first
        refusal = str(error)
    assert "pre-packed weights" in refusal or np.abs(after - before).max() > 1e-3, "it has packed them anew"

    path = folder / graph_file(gamma)
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key.startswith(PACKED):
                entry.value = "MatMul+1|" + entry.value.split("|", 1)[1]  # as another kind of CPU would have packed it
    onnx.save(model, path)
    anew = OnnxEncoder(folder, [gamma], 1).features({"pixels": pixels}, levels[gamma])
    np.testing.assert_array_equal(anew, before)


def spoil_packed(folder: Path, gamma: int) -> None:
    """Overwrite the packed matrices of a graph."""
    with (folder / WEIGHTS_FILE).open("r+b") as file:
        for place in stored(folder, gamma):
            for block in place.get("prepacked_0", "").split("|")[1:]:
                offset, length, _ = map(int, block.split(";"))
                file.seek(offset)
                file.write(b"\0" * length)


def test_a_graph_is_given_only_the_inputs_that_it_reads(vision: OnnxEncoder) -> None:
    pixels = np.zeros((1, 32, 32, 3), np.uint8)
    prompts = np.ones((1, 3, 4, 24), np.float32)
    alone = vision.features({"pixels": pixels}, TokenLevel(0))
    np.testing.assert_array_equal(vision.features({"pixels": pixels, "prompts": prompts}, TokenLevel(0)), alone)


@pytest.mark.parametrize("shared_work", [0.0, 5e9])
@pytest.mark.parametrize("batch", [1, 2, 3, 7, 8])
def test_any_number_of_threads_gives_the_same_features_in_the_same_order(
    tiny_build: Path, levels: dict[int, TokenLevel], monkeypatch: pytest.MonkeyPatch, batch: int, shared_work: float
) -> None:
    monkeypatch.setattr(onnx_encoder, "SHARED_WORK", shared_work)
    generator = np.random.default_rng(batch)
    inputs: Arrays = {
        "pixels": generator.integers(0, 256, (batch, 32, 32, 3), dtype=np.uint8),
        "prompts": generator.normal(size=(batch, 3, 4, 24)).astype(np.float32),
    }
    one, three = (OnnxEncoder(tiny_build / "vit", GAMMAS, threads) for threads in (1, 3))
    for gamma in (-4, 0, 4):
        expected = one.features(inputs, levels[gamma])
        np.testing.assert_allclose(three.features(inputs, levels[gamma]), expected, atol=1e-5)


class Spy:
    """Stands in front of a session and notes the batch sizes it is given."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.batches: list[int] = []

    def run(self, names: Any, feed: Arrays) -> Any:
        self.batches.append(len(feed["pixels"]))
        return self.session.run(names, feed)


@pytest.mark.parametrize(
    ("batch", "shared_work", "together", "parts"),
    [(8, 0.0, [8], []), (2, 0.0, [2], []), (8, 5e9, [], [2, 3, 3]), (2, 5e9, [], [1, 1]), (1, 5e9, [], [1])],
)
def test_threads_take_parts_of_a_batch_and_share_operations_where_a_sample_is_much_work(
    tiny_build: Path,
    monkeypatch: pytest.MonkeyPatch,
    batch: int,
    shared_work: float,
    together: list[int],
    parts: list[int],
) -> None:
    monkeypatch.setattr(onnx_encoder, "SHARED_WORK", shared_work)
    encoder = OnnxEncoder(tiny_build / "vit", [-2, 0], 3)
    single = encoder._single[0] = Spy(encoder._single.get(0))
    shared = encoder._shared[0] = Spy(encoder._shared.get(0))
    if shared_work:
        encoder._shared.clear()
    encoder.features({"pixels": np.zeros((batch, 32, 32, 3), np.uint8)}, TokenLevel(0))
    assert (shared.batches, sorted(single.batches)) == (together, parts)


def test_a_part_that_fails_fails_the_batch(tiny_build: Path) -> None:
    encoder = OnnxEncoder(tiny_build / "vit", [0], 2)

    def refuse(names: Any, feed: Arrays) -> Any:
        raise RuntimeError("no memory")

    encoder._single[0] = SimpleNamespace(run=refuse)
    with pytest.raises(RuntimeError, match="no memory"):
        encoder.features({"pixels": np.zeros((2, 32, 32, 3), np.uint8)}, TokenLevel(0))


@pytest.mark.parametrize("one_arena", [False, True])
def test_sessions_share_an_arena_and_do_not_spin(one_arena: bool) -> None:
    options = session_options(2, one_arena=one_arena)
    assert options.intra_op_num_threads == 2
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    if one_arena:
        assert options.get_session_config_entry("session.use_env_allocators") == "1"
    else:
        with pytest.raises(RuntimeError, match="use_env_allocators"):
            options.get_session_config_entry("session.use_env_allocators")


@pytest.mark.parametrize(
    ("encoder", "gammas", "threads", "shared_work", "opened"),
    [
        ("vit", [-2, 0], 1, 0.0, [1, 1]),
        ("vit", [-2, 0], 2, 5e9, [1, 1]),
        ("vit", [-2, 0], 2, 0.0, [1, 2, 2]),  # the first tells how large an image is; alone, none of them runs
        ("bert", [0], 2, 0.0, [1, 2]),
        ("bert", [0], 2, 5e9, [1]),
    ],
)
def test_threads_share_sessions_only_where_a_sample_can_be_much_work(
    tiny_build: Path,
    monkeypatch: pytest.MonkeyPatch,
    encoder: str,
    gammas: list[int],
    threads: int,
    shared_work: float,
    opened: list[int],
) -> None:
    asked = []

    def options(threads: int, *, one_arena: bool) -> Any:
        asked.append(threads)
        return session_options(threads, one_arena=one_arena)

    monkeypatch.setattr(onnx_encoder, "session_options", options)
    monkeypatch.setattr(onnx_encoder, "SHARED_WORK", shared_work)
    OnnxEncoder(tiny_build / encoder, gammas, threads)
    assert asked == opened


def test_freed_memory_is_given_back() -> None:
    blocks = [b"x" * 100_000 for _ in range(2000)]  # too small to be mapped one by one
    last = blocks.pop()  # keeps the heap's end where it is
    blocks.clear()
    before = psutil.Process().memory_info().rss
    return_freed_memory()
    assert before - psutil.Process().memory_info().rss > 100e6
    assert last


def test_an_encoder_gives_back_what_opening_its_graphs_took(tiny_build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given_back = []
    monkeypatch.setattr(onnx_encoder, "return_freed_memory", lambda: given_back.append(True))
    OnnxEncoder(tiny_build / "vit", [-2, 0], 2)
    assert given_back == [True]
