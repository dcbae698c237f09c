"""Encoders in eager torch: the same token operations as the exported graphs, for a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch

from elastriton.core.levels import TokenLevel
from elastriton.runtime.executor import Arrays, Floats
from elastriton.runtime.graphs import TORCH_FOLDER
from elastriton.runtime.models import load_text, load_vision


class TorchEncoder:
    """An encoder whose weights lie in timm's or Hugging Face's own format in the artifact's `torch` folder."""

    def __init__(self, folder: Path, kind: Literal["vision", "text"], device: str = "cpu") -> None:
        name = str(folder / TORCH_FOLDER)
        self._encoder = (load_vision(name).encoder if kind == "vision" else load_text(name).encoder).to(device)
        self._device = device

    def features(self, inputs: Arrays, level: TokenLevel) -> Floats:
        """Features [batch, width] of one batch."""
        tensors = {name: torch.from_numpy(array).to(self._device) for name, array in inputs.items()}
        with torch.inference_mode():
            features: torch.Tensor = self._encoder(**tensors, level=level)
        return np.asarray(features.float().cpu().numpy(), dtype=np.float32)
