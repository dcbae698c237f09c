"""Encoders in torch: the same token operations as the exported graphs, for a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch

from elastriton.core.levels import TokenLevel
from elastriton.core.profile import Precision
from elastriton.runtime.buckets import Buckets
from elastriton.runtime.cuda_graphs import CudaGraphs
from elastriton.runtime.executor import Arrays, Floats
from elastriton.runtime.files import TORCH_FOLDER
from elastriton.runtime.models import load_text, load_vision

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class TorchEncoder:
    """An encoder whose weights lie in timm's or Hugging Face's own format in the artifact's `torch` folder.

    On a CPU it runs eagerly. So it does on CUDA without `buckets`, or where the model's forward is not ours and might
    wait for the device; else batches are padded to a bucket and run as a CUDA graph.
    """

    def __init__(
        self,
        folder: Path,
        kind: Literal["vision", "text"],
        device: str = "cpu",
        precision: Precision = "fp32",
        buckets: Buckets | None = None,
    ) -> None:
        name = str(folder / TORCH_FOLDER)
        encoder = load_vision(name).encoder if kind == "vision" else load_text(name).encoder
        self._device, self._dtype = device, DTYPES[precision]
        self.encoder = encoder.to(device, self._dtype)
        self.buckets = buckets
        self.graphs: CudaGraphs | None = None
        if device.startswith("cuda"):
            torch.backends.cuda.enable_cudnn_sdp(False)  # it plans for every shape anew, and each layer has its own
            if precision == "fp32":
                torch.set_float32_matmul_precision("highest")  # as on the CPU, whatever an image's default is
            if buckets is not None and getattr(encoder, "elastic", True):
                self.graphs = CudaGraphs(self.encoder, device, self._dtype)

    def features(self, inputs: Arrays, level: TokenLevel) -> Floats:
        """Features [batch, width] of one batch. Raises InvalidInput where it is larger than the largest bucket."""
        if self.graphs is None or self.buckets is None:
            return _floats(self.eager(self.tensors(inputs), level))
        batch = len(next(iter(inputs.values())))
        return _floats(self.graphs.run(self.buckets.pad(inputs), level)[:batch])

    def tensors(self, inputs: Arrays) -> dict[str, torch.Tensor]:
        """The inputs on the device; prompts in the encoder's precision."""
        tensors = {name: torch.from_numpy(array).to(self._device) for name, array in inputs.items()}
        return {name: x.to(self._dtype) if x.is_floating_point() else x for name, x in tensors.items()}

    def eager(self, tensors: dict[str, torch.Tensor], level: TokenLevel) -> torch.Tensor:
        """The encoder's features [batch, width] without a graph, on the device."""
        with torch.inference_mode():
            features: torch.Tensor = self.encoder(**tensors, level=level)
        return features


def serving_device() -> str:
    """Where torch encoders run here: the first CUDA device, else the CPU."""
    return "cuda:0" if torch.cuda.is_available() else "cpu"


def default_precision(device: str) -> Precision:
    """fp16 on CUDA, fp32 on a CPU.

    fp16 rounds eight times finer than bf16, which matters to proportional attention: bf16 rounds the logarithm of a
    size by up to 0.4 %. Merging does not overflow fp16's range, its weights are at most 1 (tokens.Merge.weighted); a
    model whose own activations do needs bf16.
    """
    return "fp16" if device.startswith("cuda") else "fp32"


def _floats(features: torch.Tensor) -> Floats:
    return np.asarray(features.float().cpu().numpy(), dtype=np.float32)
