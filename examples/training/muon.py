"""Muon (Jordan et al., 2024) in fp32: torch.optim.Muon works in bfloat16, which is slow on CPUs without AVX-512."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def orthogonalise(matrices: Tensor, steps: int = 4) -> Tensor:
    """Nearest semi-orthogonal matrices of a batch [n, rows, columns], roughly, by Newton-Schulz iteration."""
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    result: Tensor = x if wide else x.mT
    return result


class Muon(torch.optim.Optimizer):
    """Orthogonalised Nesterov momentum for matrices, with the step size of AdamW (Liu et al., 2025)."""

    def __init__(self, params: Iterable[Tensor], lr: float, weight_decay: float = 0.05, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # noqa: ARG002 (the base class has it)
        """Update the matrices, those of one shape together."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for p in group["params"]:
                shapes.setdefault(p.shape, []).append(p)
            for shape, parameters in shapes.items():
                updates = []
                for p in parameters:
                    average = self.state[p].setdefault("average", torch.zeros_like(p))
                    assert p.grad is not None
                    average.lerp_(p.grad, 1 - group["momentum"])
                    updates.append(p.grad.lerp(average, group["momentum"]))
                for p, update in zip(parameters, orthogonalise(torch.stack(updates)), strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(update, alpha=-group["lr"] * 0.2 * max(shape) ** 0.5)
