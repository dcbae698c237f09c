"""Tiny real models and a project around them, built once per session, and the shared data where it is at hand."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
COLOURS = ("red", "green", "blue")
INTENTS = ("greet", "leave", "order")
WORDS = ("hello", "hi", "there", "good", "morning", "bye", "goodbye", "see", "you", "buy", "tea", "please", "two")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The development data beside the checkout; tests that need it skip where it is absent."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("../shared/data is absent: this test needs data that may not be shipped")
    return path


def jpeg(colour: str, size: tuple[int, int] = (48, 40), noise: int = 0) -> bytes:
    """A JPEG of one colour, a little noisy."""
    image = np.zeros((size[1], size[0], 3), np.uint8)
    image[:, :, COLOURS.index(colour)] = 200
    noisy = image + np.random.default_rng(noise).integers(0, 40, image.shape, dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "JPEG", quality=90)
    return file.getvalue()


@pytest.fixture(scope="session")
def make_jpeg() -> Any:
    return jpeg


@pytest.fixture(scope="session")
def tiny_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a timm ViT of 3 layers and 17 tokens, random but for its seed."""
    import timm
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("models") / "tiny-vit"
    folder.mkdir()
    arguments = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3}
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, **arguments)
    save_file(model.state_dict(), folder / "model.safetensors")
    data = {"input_size": [3, 32, 32], "crop_pct": 0.9, "interpolation": "bicubic", "label_names": COLOURS}
    normal = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "num_classes": 3}
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 3,
        "model_args": arguments,
        "pretrained_cfg": {**data, **normal},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes folders with a Hugging Face BERT classifier: `tiny_bert(name, layers=2, labels=INTENTS)`."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS))}
    parent = tmp_path_factory.mktemp("texts")

    def make(name: str, layers: int = 2, labels: tuple[str, ...] = INTENTS) -> Path:
        folder = parent / name
        tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.Lowercase()
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
        fast.save_pretrained(folder)
        torch.manual_seed(layers)
        config = BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=24,
            num_hidden_layers=layers,
            num_attention_heads=3,
            intermediate_size=48,
            max_position_embeddings=40,
            id2label=dict(enumerate(labels)),
            label2id={label: i for i, label in enumerate(labels)},
        )
        BertForSequenceClassification(config).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_project(tmp_path_factory: pytest.TempPathFactory, tiny_vit: Path, tiny_bert: Any) -> Path:
    """A folder with an elastriton.yaml over tiny models: two vision tasks on one encoder, a cascade, pairs, scores."""
    from safetensors.numpy import save_file

    folder = tmp_path_factory.mktemp("project")
    generator = np.random.default_rng(0)
    for colour in COLOURS:
        (folder / "images" / colour).mkdir(parents=True)
        for i in range(8):
            (folder / "images" / colour / f"{i}.jpg").write_bytes(jpeg(colour, noise=i))
    prompts = generator.normal(size=(3, 4, 24)).astype(np.float32)
    save_file({"prompts": prompts}, folder / "prompts.safetensors")
    head = {"weight": generator.normal(size=(2, 24)).astype(np.float32), "bias": np.zeros(2, np.float32)}
    save_file(head, folder / "warm.safetensors")
    pairs = [f"{first} {second}" for first in WORDS[:3] for second in WORDS]
    items = [[text, INTENTS[i % 3]] for i, text in enumerate(pairs)]
    (folder / "intents.json").write_text(json.dumps({"items": items}))
    rated = [[[first, second], round(generator.uniform(0, 5), 2)] for first in WORDS[:3] for second in WORDS]
    (folder / "ratings.json").write_text(json.dumps({"items": rated}))
    text = {"kind": "text", "max_length": 16, "lengths": [8, 16], "batches": [1, 4, 8]}
    scores = tiny_bert("scores", layers=3, labels=("score",))
    small = {"max_length": 16, "max_drop": 0.99}
    config = {
        "version": 1,
        "overhead_ms": 5.0,
        "encoders": {
            "vit": {
                "kind": "vision",
                "model": str(tiny_vit),
                "levels": [-4, -2, 0, 2, 4],
                "batches": [1, 4, 8],
                "instances": 2,
            },
            "bert": {"model": str(tiny_bert("large", layers=3)), **text},
            "rater": {"model": str(scores), **text},
        },
        "tasks": {
            "colour": {
                "encoder": "vit",
                "slo_ms": 5000,
                "prompts": "prompts.safetensors",
                "data": {"path": "images", "samples": 20},
            },
            "warm": {"encoder": "vit", "slo_ms": 5000, "head": "warm.safetensors", "labels": ["cold", "warm"]},
            "intent": {
                "encoder": "bert",
                "slo_ms": 5000,
                "data": {"path": "intents.json", "samples": 30},
                "cascade": {"models": [str(tiny_bert("small", layers=1))], "keep_rates": [0.5], "floor": 1, **small},
            },
            "similarity": {
                "encoder": "rater",
                "slo_ms": 5000,
                "objective": "regression",
                "inputs": 2,
                "data": {"path": "ratings.json", "samples": 30},
                "cascade": {"models": [str(tiny_bert("small-scores", layers=1, labels=("score",)))], **small},
            },
        },
    }
    (folder / "elastriton.yaml").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def tiny_build(tmp_path_factory: pytest.TempPathFactory, tiny_project: Path) -> Path:
    """The build folder of the tiny project: profile.json, plan.json and artifacts.

    Its cascades are given, and answer everything early: what is certified depends on what was measured.
    """
    from elastriton.core.planner import make_plan
    from elastriton.core.promise import CascadeChoice
    from elastriton.core.records import dumps
    from elastriton.generator.config import load_config
    from elastriton.generator.goals import goals
    from elastriton.generator.profiler import profile

    build = tmp_path_factory.mktemp("build")
    config = load_config(tiny_project / "elastriton.yaml")
    measured = profile(config, tiny_project, build, budget_s=0.0, advance=lambda step: None)
    choices = {
        "intent": CascadeChoice("given", ((0, 0.0),)),
        "similarity": CascadeChoice("given", ((0, -1e9),), score="uncertainty"),
    }
    (build / "plan.json").write_text(dumps(make_plan(measured, "", goals(config), choices)))
    return build


@pytest.fixture(scope="session")
def tiny_repository(tmp_path_factory: pytest.TempPathFactory, tiny_build: Path) -> Path:
    """The model repository of the tiny project."""
    from elastriton.core.plan import Plan
    from elastriton.core.records import load
    from elastriton.generator.repository import generate

    repository = tmp_path_factory.mktemp("served") / "repository"
    generate(load(Plan, tiny_build / "plan.json"), tiny_build, repository)
    return repository


@pytest.fixture(scope="session")
def text_project(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Any) -> Path:
    """A folder with an elastriton.yaml over one text encoder of 3 layers with the levels -20 and 0."""
    import torch
    from transformers import BertForSequenceClassification

    folder = tmp_path_factory.mktemp("text-project")
    source = tiny_bert("levels of text", layers=3)
    model = BertForSequenceClassification.from_pretrained(source)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # as they are initialised, all tokens look alike
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(source)
    items = [[f"hello {'please ' * i}", INTENTS[i % 3]] for i in range(20)]
    (folder / "intents.json").write_text(json.dumps({"items": items}))
    lengths = {"max_length": 32, "lengths": [32], "batches": [1, 4]}
    config = {
        "version": 1,
        "encoders": {"bert": {"kind": "text", "model": str(source), "levels": [-20, 0], **lengths}},
        "tasks": {"intent": {"encoder": "bert", "slo_ms": 5000, "data": {"path": "intents.json"}}},
    }
    (folder / "elastriton.yaml").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def text_build(tmp_path_factory: pytest.TempPathFactory, text_project: Path) -> Path:
    """The build folder of the text project: profile.json and artifacts."""
    from elastriton.generator.config import load_config
    from elastriton.generator.profiler import profile

    build = tmp_path_factory.mktemp("text-build")
    config = load_config(text_project / "elastriton.yaml")
    profile(config, text_project, build, budget_s=0.0, advance=lambda step: None)
    return build
