"""The large model of a cascade cut into one ONNX graph per layer, so that a served baseline can stop half-way.

layer_0.onnx     token ids, mask, segment ids -> hidden states behind the embeddings and the first layer
layer_k.onnx     hidden states, mask -> hidden states
layer_<last>     hidden states, mask -> logits: CLS alone is computed, as in our own graphs
exits.safetensors, exits.json    the classifiers after the other layers; the rule (bench/exit_backend.py)
"""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from exits import Exits
from safetensors.numpy import save_file
from torch import Tensor, nn

from elastriton.runtime.bert import attend
from elastriton.runtime.models import load_text

ROOT = Path(__file__).parents[1]


class _First(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.embeddings, self.layer = model.base_model.embeddings, model.base_model.encoder.layer[0]

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        return _through(self.layer, self.embeddings(input_ids=input_ids, token_type_ids=token_type_ids), attention_mask)


class _Middle(nn.Module):
    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        return _through(self.layer, hidden, attention_mask)


class _Last(nn.Module):
    def __init__(self, model: Any, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.layer, self.pooler = model.base_model.encoder.layer[-1], model.base_model.pooler
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.pooler(_through(self.layer, hidden, attention_mask, queries=1))
        return nn.functional.linear(x, self.weight, self.bias)


def _through(layer: Any, x: Tensor, mask: Tensor, queries: int | None = None) -> Tensor:
    log_size = mask.to(x.dtype)[:, :, None].log()
    attended, _ = attend(layer.attention.self, x, log_size, queries)
    x = layer.attention.output(attended, x[:, :queries])
    hidden: Tensor = layer.output(layer.intermediate(x), x)
    return hidden


def export_layers(model: str, exits: Exits, folder: Path) -> None:
    """Write the graphs of a Hugging Face BERT classifier and its exits to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    encoder = load_text(model).encoder
    layers = encoder.model.base_model.encoder.layer
    ids = {name: torch.ones(2, 7, dtype=torch.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
    ids["token_type_ids"].zero_()
    hidden = {"hidden": torch.randn(2, 7, encoder.head_weight.shape[1]), "attention_mask": ids["attention_mask"]}
    _export(_First(encoder.model), ids, folder / "layer_0.onnx")
    for number, layer in enumerate(layers[1:-1], 1):
        _export(_Middle(layer), hidden, folder / f"layer_{number}.onnx")
    last = _Last(encoder.model, encoder.head_weight, encoder.head_bias)
    _export(last, hidden, folder / f"layer_{len(layers) - 1}.onnx")
    named = {f"{kind}.{number}": ramp[i] for number, ramp in enumerate(exits.ramps) for i, kind in enumerate("wb")}
    save_file(named, folder / "exits.safetensors")


def install(model: Path, graphs: Path, rule: dict[str, Any]) -> None:
    """Turn the cascade in the folder `model` of a repository into the baseline that `rule` describes."""
    config = model / "config.pbtxt"
    config.write_text(config.read_text().replace('backend: "cascade"', 'backend: "python"'))
    source = ("import sys", f"sys.path.append({str(ROOT / 'bench')!r})", "from exit_backend import TritonPythonModel")
    (model / "1/model.py").write_text("\n".join(source) + "\n")
    (model / "1/exits.json").write_text(json.dumps(rule | {"graphs": str(graphs.resolve())}))


def _export(module: nn.Module, inputs: dict[str, Tensor], path: Path) -> None:
    batch, tokens = torch.export.Dim("batch", min=1, max=1024), torch.export.Dim("tokens", min=2, max=512)
    axes = {name: {0: batch, 1: tokens} for name in inputs}
    with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(), kwargs=inputs, input_names=list(inputs), output_names=["out"], dynamic_shapes=axes,
            opset_version=20, dynamo=True, verbose=False,
        )  # fmt: skip
    assert program is not None
    onnx.save(program.model_proto, path)
