"""The small residual CNN (He et al., 2016) that train_eurosat_vit.py trains first and distils from."""

from __future__ import annotations

import time

import torch
from common import augment, dihedral, predict
from torch import Tensor, nn
from torch.nn import functional


class Residual(nn.Module):
    """A basic residual block that halves the resolution when `stride` is 2."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        short = [nn.AvgPool2d(stride)] if stride > 1 else []
        self.short = nn.Sequential(*short, *([nn.Conv2d(inputs, outputs, 1)] if inputs != outputs else []))

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        return functional.relu(self.body(x) + self.short(x))


def make_teacher(classes: int) -> nn.Module:
    """The residual CNN that the transformer learns from."""
    stem = [nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(inplace=True)]
    blocks = [Residual(32, 32, 1), Residual(32, 64, 2), Residual(64, 128, 2), Residual(128, 256, 2)]
    model = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, classes))
    return model.to(memory_format=torch.channels_last)


def train_teacher(x: Tensor, y: Tensor, classes: int, epochs: int, batch: int = 64) -> nn.Module:
    """Train the teacher with SGD and a one-cycle rate."""
    model, steps = make_teacher(classes), epochs * (len(x) // batch)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=0.1, total_steps=steps, pct_start=0.25)
    for epoch in range(epochs):
        start, total = time.time(), 0.0
        for index in torch.randperm(len(x))[: len(x) // batch * batch].split(batch):
            inputs = augment(x[index]).contiguous(memory_format=torch.channels_last)
            loss = functional.cross_entropy(model(inputs), y[index], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item()
        print(f"teacher {epoch + 1}/{epochs} loss {total * batch / len(x):.4f} {time.time() - start:.0f} s", flush=True)
    return model.eval()


def teacher_logits(model: nn.Module, images: Tensor) -> Tensor:
    """Logits averaged over the 8 dihedral views."""
    return torch.stack([predict(model, dihedral(images, view)) for view in range(8)]).mean(0).clone()
