"""The names inside an encoder's artifact: graphs, weights, tokenizer, heads."""

from __future__ import annotations

WEIGHTS_FILE = "weights.bin"
HEAD_FILE = "head.safetensors"
TOKENIZER_FILE = "tokenizer.json"
TORCH_FOLDER = "torch"


def graph_file(gamma: int) -> str:
    """The file name of the graph of level `gamma`."""
    return f"level_{gamma}.onnx"
