"""What `elastriton tune` trains on a frozen encoder: a task's prompts, and the control that prompts must beat.

Prompts (VPT, arXiv 2203.12119) are nested: each step uses a random number of the first ones, so that every prefix
works and one file serves every level gamma > 0 (as in matryoshka representations, arXiv 2205.13147). The control is a
low-rank change of every layer's attention projections (LoRA, arXiv 2106.09685; tunable.py says which). Merged into the
weights it costs nothing when serving; but it changes the encoder for all of its tasks, which prompts do not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elastriton.generator.measure import Advance
from elastriton.generator.tunable import Inputs, Samples, Tunable

WARM_UP_STEPS = 20


@dataclass(frozen=True, slots=True)
class Training:
    """How to train: for at most `epochs` and `minutes`; the learning rate falls to zero by a cosine of the first."""

    epochs: int = 5
    minutes: float = 10.0
    batch: int = 96
    learning_rate: float = 5e-3
    seed: int = 0


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
    model: Tunable, layers: int, count: int, samples: Samples, training: Training, advance: Advance
) -> tuple[Tensor, list[float]]:
    """Prompts [layers, count, width] of which every prefix works (1 layer: VPT-shallow), and the loss of every step."""
    generator = torch.Generator().manual_seed(training.seed)
    fresh = torch.empty(layers, count, model.width).uniform_(-model.spread, model.spread, generator=generator)
    prompts = nn.Parameter(fresh)

    def forward(inputs: Inputs) -> Tensor:
        prefix = 1 + int(torch.randint(count, (), generator=generator))
        logits: Tensor = model(inputs, prompts[:, :prefix])
        return logits

    started_s, epoch_steps = time.monotonic(), math.ceil(len(samples.numbers) / training.batch)

    def done(steps: int) -> float:
        elapsed = (time.monotonic() - started_s) / (60.0 * training.minutes)
        return max(elapsed, steps / (epoch_steps * training.epochs))

    losses = _train(forward, [prompts], samples, training, done, generator, lambda step: advance(f"prompts, {step}"))
    return prompts.detach(), losses


def train_low_rank(
    model: Tunable, rank: int, steps: int, samples: Samples, training: Training, advance: Advance
) -> tuple[int, list[float]]:
    """Train a change of `rank` in every layer of `model.projections()` for `steps`, and merge it.

    Returns how many numbers were trained, and the loss of every step. The model holds the changed weights afterwards.
    """
    generator = torch.Generator().manual_seed(training.seed)
    places = list(model.projections())
    changes = [LowRank(getattr(module, name), rank, generator) for module, name in places]
    for (module, name), change in zip(places, changes, strict=True):
        setattr(module, name, change)
    trained = [parameter for change in changes for parameter in (change.down, change.up)]
    losses = _train(
        model.changeable,
        trained,
        samples,
        training,
        lambda step: step / steps,
        generator,
        lambda step: advance(f"control, {step}"),
    )
    for (module, name), change in zip(places, changes, strict=True):
        setattr(module, name, change.merged())
    return sum(parameter.numel() for parameter in trained), losses


def _train(
    forward: Callable[[Inputs], Tensor],
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
        logits = forward(samples.batch(index, generator))
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
