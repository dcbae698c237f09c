"""What `elastriton tune` trains on: a frozen encoder under a task's head, and the task's samples, images or texts.

A tunable model says which of its linear layers a low-rank control changes, and runs with prompts as it is served.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from elastriton.core.levels import TokenLevel, constant_level
from elastriton.runtime.models import TextModel, VisionModel
from elastriton.runtime.texts import Encoding, pad

Inputs = dict[str, Tensor]


class Samples(Protocol):
    """Labelled samples; `numbers` [n] are the right classes."""

    numbers: Tensor

    def batch(self, index: Tensor, generator: torch.Generator | None = None) -> Inputs:
        """The inputs of the samples `index`, changed at random where a generator is given and the kind allows it."""
        ...


class ImageSamples:
    """Images as uint8 pixels [n, height, width, 3]; in training each is moved a little."""

    def __init__(self, pixels: Tensor, numbers: Tensor) -> None:
        self.pixels, self.numbers = pixels, numbers

    def batch(self, index: Tensor, generator: torch.Generator | None = None) -> Inputs:
        """The pixels [batch, height, width, 3]."""
        pixels = self.pixels[index]
        return {"pixels": pixels if generator is None else shifted(pixels, generator)}


class TextSamples:
    """Tokenised texts; nothing about them is changed in training."""

    def __init__(self, encodings: Sequence[Encoding], numbers: Tensor) -> None:
        self._encodings, self.numbers = encodings, numbers

    def batch(self, index: Tensor, generator: torch.Generator | None = None) -> Inputs:
        """Token ids, mask and segment ids, each [batch, tokens]."""
        del generator  # the protocol's: texts stay as they are
        padded = pad([self._encodings[i] for i in index.tolist()])
        return {name: torch.from_numpy(np.asarray(array)) for name, array in padded.items()}


class Tunable(nn.Module):
    """An encoder under a task's linear head, both frozen. `spread` is that of fresh prompts."""

    def __init__(
        self, model: VisionModel | TextModel, weight: NDArray[np.float32], bias: NDArray[np.float32], spread: float
    ) -> None:
        super().__init__()
        self.encoder: Any = model.encoder
        self.depth, self.width, self.spread = model.depth, model.width, spread
        self.weight, self.bias = nn.Parameter(torch.from_numpy(weight)), nn.Parameter(torch.from_numpy(bias))
        self.requires_grad_(False).eval()

    def forward(self, inputs: Inputs, prompts: Tensor | None = None) -> Tensor:
        """Logits [batch, classes] as they are served, with `prompts` [layers, gamma, width]."""
        if prompts is None:
            return self._head(self.encoder(**inputs, level=TokenLevel(0)))
        batched = prompts.expand(len(next(iter(inputs.values()))), *prompts.shape)
        level = constant_level(prompts.shape[1], self.depth)
        return self._head(self.encoder(**inputs, level=level, prompts=batched))

    def changeable(self, inputs: Inputs) -> Tensor:
        """The same logits without prompts, through every layer of `projections`, so that a change takes effect."""
        return self.forward(inputs)

    def projections(self) -> Iterator[tuple[nn.Module, str]]:
        """Where the layers stand that a control changes: a module and the name of its linear layer."""
        raise NotImplementedError

    def _head(self, features: Tensor) -> Tensor:
        return F.linear(features, self.weight, self.bias)


class TunableVision(Tunable):
    """A vision transformer; the control changes every block's qkv projection."""

    def __init__(self, model: VisionModel, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
        patch = int(model.encoder.vit.patch_embed.patch_size[0])
        super().__init__(model, weight, bias, (6.0 / (3 * patch**2 + model.width)) ** 0.5)  # VPT's

    def changeable(self, inputs: Inputs) -> Tensor:
        """Through timm's blocks alone: ours holds views of the last block's projection."""
        vit = self.encoder.vit
        x = vit.norm(vit.blocks(self.encoder.embed(inputs["pixels"])))
        return self._head(vit.forward_head(x, pre_logits=True))

    def projections(self) -> Iterator[tuple[nn.Module, str]]:
        """One per block."""
        return ((block.attn, "qkv") for block in self.encoder.vit.blocks)


class TunableText(Tunable):
    """A BERT-like encoder; the control changes every layer's query and value projections (LoRA's choice)."""

    def __init__(self, model: TextModel, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
        super().__init__(model, weight, bias, (3.0 / model.width) ** 0.5)

    def projections(self) -> Iterator[tuple[nn.Module, str]]:
        """Two per layer."""
        layers = self.encoder.model.base_model.encoder.layer
        return ((layer.attention.self, name) for layer in layers for name in ("query", "value"))


def shifted(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Each image moved by up to a sixteenth of its side, mirrored at the border: [b, h, w, 3] uint8 as given."""
    batch, height, width, _ = pixels.shape
    most = height // 16
    rows, columns = (
        (torch.randint(-most, most + 1, (batch, 1), generator=generator) + torch.arange(side)).abs()
        for side in (height, width)
    )
    rows, columns = torch.minimum(rows, 2 * height - 2 - rows), torch.minimum(columns, 2 * width - 2 - columns)
    return pixels[torch.arange(batch)[:, None, None], rows[:, :, None], columns[:, None, :]]
