"""What `elastriton tune` trains on a frozen encoder: a task's prompts, and the control that prompts must beat.

Prompts (VPT, arXiv 2203.12119) are nested: each step uses a random number of the first ones, so that every prefix
works and one file serves every level gamma > 0 (as in matryoshka representations, arXiv 2205.13147). The control is a
low-rank change of every block's qkv projection (LoRA, arXiv 2106.09685). Merged into the weights it costs nothing when
serving; but it changes the encoder for all of its tasks, which prompts do not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elastriton.core.levels import constant_level
from elastriton.generator.measure import Advance
from elastriton.runtime.models import VisionModel

WARM_UP_STEPS = 20


@dataclass(frozen=True, slots=True)
class Training:
    """How to train: for at most `epochs` and `minutes`; the learning rate falls to zero by a cosine of the first."""

    epochs: int = 5
    minutes: float = 10.0
    batch: int = 96
    learning_rate: float = 5e-3
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Samples:
    """Images as uint8 pixels [n, height, width, 3] and the number of the right class of each, [n]."""

    pixels: Tensor
    numbers: Tensor


class TunableModel(nn.Module):
    """A vision encoder under a task's linear head, both frozen."""

    def __init__(self, model: VisionModel, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.encoder, self.patch = model.encoder, model.encoder.vit.patch_embed.patch_size[0]
        self.depth, self.width = model.depth, model.width
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.requires_grad_(False).eval()

    def forward(self, pixels: Tensor, prompts: Tensor | None = None) -> Tensor:
        """Logits [b, classes] of `pixels` [b, h, w, 3] as they are served, with `prompts` [layers, gamma, width]."""
        level = constant_level(0 if prompts is None else prompts.shape[1], self.depth)
        batched = None if prompts is None else prompts.expand(len(pixels), *prompts.shape)
        return F.linear(self.encoder(pixels, level, batched), self.weight, self.bias)

    def by_blocks(self, pixels: Tensor) -> Tensor:
        """The same logits without prompts through timm's blocks alone, so that a change of any block takes effect."""
        vit = self.encoder.vit
        x = vit.norm(vit.blocks(self.encoder.embed(pixels)))
        return F.linear(vit.forward_head(x, pre_logits=True), self.weight, self.bias)


class LowRank(nn.Module):
    """A frozen linear layer plus a low-rank change that begins at zero."""

    def __init__(self, linear: nn.Linear, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.linear = linear
        spread = 1.0 / math.sqrt(linear.in_features)
        self.down = nn.Parameter(torch.empty(rank, linear.in_features).uniform_(-spread, spread, generator=generator))
        self.up = nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output with the change."""
        changed: Tensor = self.linear(x) + F.linear(F.linear(x, self.down), self.up)
        return changed

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The layer, with the change added to its weight in place."""
        self.linear.weight += self.up @ self.down
        return self.linear


def train_prompts(
    model: TunableModel, layers: int, count: int, samples: Samples, training: Training, advance: Advance
) -> tuple[Tensor, list[float]]:
    """Prompts [layers, count, width] of which every prefix works (1 layer: VPT-shallow), and the loss of every step."""
    generator = torch.Generator().manual_seed(training.seed)
    v = math.sqrt(6.0 / (3 * model.patch**2 + model.width))
    prompts = nn.Parameter(torch.empty(layers, count, model.width).uniform_(-v, v, generator=generator))

    def forward(pixels: Tensor) -> Tensor:
        prefix = 1 + int(torch.randint(count, (), generator=generator))
        logits: Tensor = model(pixels, prompts[:, :prefix])
        return logits

    started_s, epoch_steps = time.monotonic(), math.ceil(len(samples.numbers) / training.batch)

    def done(steps: int) -> float:
        elapsed = (time.monotonic() - started_s) / (60.0 * training.minutes)
        return max(elapsed, steps / (epoch_steps * training.epochs))

    losses = _train(forward, [prompts], samples, training, done, generator, lambda step: advance(f"prompts, {step}"))
    return prompts.detach(), losses


def train_low_rank(
    model: TunableModel, rank: int, steps: int, samples: Samples, training: Training, advance: Advance
) -> tuple[int, list[float]]:
    """Train a change of `rank` in every block's qkv projection for `steps`, and merge it.

    Returns how many numbers were trained, and the loss of every step. The model holds the changed weights afterwards.
    """
    generator = torch.Generator().manual_seed(training.seed)
    attentions = [block.attn for block in model.encoder.vit.blocks]
    changes = [LowRank(attention.qkv, rank, generator) for attention in attentions]
    for attention, change in zip(attentions, changes, strict=True):
        attention.qkv = change
    trained = [parameter for change in changes for parameter in (change.down, change.up)]
    losses = _train(
        model.by_blocks,
        trained,
        samples,
        training,
        lambda step: step / steps,
        generator,
        lambda step: advance(f"control, {step}"),
    )
    for attention, change in zip(attentions, changes, strict=True):
        attention.qkv = change.merged()
    return sum(parameter.numel() for parameter in trained), losses


def _train(
    forward: Callable[[Tensor], Tensor],
    parameters: Sequence[nn.Parameter],
    samples: Samples,
    training: Training,
    done: Callable[[int], float],
    generator: torch.Generator,
    advance: Advance,
) -> list[float]:
    """AdamW on the cross-entropy with smoothed labels, until the work is `done`, a share of steps; their losses."""
    optimiser = torch.optim.AdamW(parameters, lr=training.learning_rate, weight_decay=0.0)
    losses: list[float] = []
    for index in _batches(len(samples.numbers), training.batch, generator):
        if (share := done(len(losses))) >= 1.0:
            break
        warm_up = min(1.0, (len(losses) + 1) / WARM_UP_STEPS)
        optimiser.param_groups[0]["lr"] = training.learning_rate * warm_up * math.cos(math.pi / 2 * share) ** 2
        logits = forward(shifted(samples.pixels[index], generator))
        loss = F.cross_entropy(logits, samples.numbers[index], label_smoothing=0.1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        advance(f"step {len(losses)}, {share:.0%} done, loss {loss.item():.3f}")
    return losses


def _batches(count: int, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    while True:
        yield from torch.randperm(count, generator=generator).split(batch)


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
