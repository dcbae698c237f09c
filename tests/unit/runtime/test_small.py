"""The small models of a cascade: what they say, and the attention that leaves their graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from elastriton.core.confidence import softmax
from elastriton.runtime.executor import Arrays, Floats
from elastriton.runtime.small import PlainModel, answer
from elastriton.runtime.texts import TextTokenizer, pad

TEXTS = ["hello there good morning please", "tea", "bye see you", "buy two tea please"]


def reference(folder: Path, inputs: Arrays) -> tuple[Floats, list[Floats]]:
    """Hugging Face's own logits, and what every real token receives: column sums over the real rows, by its maps."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.inference_mode():
        output = model(**{name: torch.from_numpy(array) for name, array in inputs.items()}, output_attentions=True)
    received = []
    for row, n in enumerate(inputs["attention_mask"].sum(axis=1)):
        maps = np.stack([layer[row].numpy() for layer in output.attentions])  # [layers, heads, tokens, tokens]
        received.append(maps[:, :, :n, :n].sum(axis=2).mean(axis=(0, 1)))
    return output.logits.numpy(), received


def batch(folder: Path, texts: list[str]) -> Arrays:
    return pad([TextTokenizer(folder, 16).encode([text]) for text in texts])


@pytest.fixture(scope="module")
def small(tiny_build: Path) -> PlainModel:
    return PlainModel(tiny_build / "intent_small0", "intent")


def test_the_attention_of_the_graph_is_the_column_sums_of_hugging_face_s_maps(
    small: PlainModel, tiny_build: Path, tiny_bert: Any
) -> None:
    inputs = batch(tiny_build / "intent_small0", TEXTS)
    logits, received = reference(tiny_bert("small", layers=1), inputs)
    outputs = small.run(inputs)
    np.testing.assert_allclose(outputs.logits, logits, atol=1e-4)
    assert outputs.attention is not None
    for row, expected in enumerate(received):
        np.testing.assert_allclose(outputs.attention[row, : len(expected)], expected, atol=1e-4)
        assert expected.sum() == pytest.approx(len(expected), abs=1e-3), "every row of a map sums to one"


def test_padding_neither_gives_nor_gets_attention(small: PlainModel, tiny_build: Path) -> None:
    folder = tiny_build / "intent_small0"
    together = small.run(batch(folder, TEXTS)).attention
    assert together is not None
    for row, text in enumerate(TEXTS):
        alone = small.run(batch(folder, [text])).attention
        assert alone is not None
        n = alone.shape[1]
        np.testing.assert_allclose(together[row, :n], alone[0], atol=1e-5)
        np.testing.assert_allclose(together[row, n:], 0.0, atol=1e-5)


def test_the_graphs_of_large_models_have_no_attention(tiny_build: Path) -> None:
    from elastriton.runtime.onnx_encoder import OnnxEncoder

    assert not OnnxEncoder(tiny_build / "bert", [0]).has("attention")


def test_a_regression_s_small_model_also_says_how_far_off_it_may_be(tiny_build: Path) -> None:
    model = PlainModel(tiny_build / "similarity_small0", "similarity")
    tokenizer = TextTokenizer(tiny_build / "similarity_small0", 16, 2)
    logits = model.run(pad([tokenizer.encode(("hello", "tea")), tokenizer.encode(("hi there", "bye"))])).logits
    assert logits.shape == (2, 2)
    np.testing.assert_array_equal(answer(logits, "regression", 3.0), logits[:, :1])
    np.testing.assert_allclose(answer(logits, "classification", 3.0), softmax(logits, 3.0))
