"""What students of the benches imitate: a teacher's softened logits (Hinton et al., 2015)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

TEMPERATURE, SHARE = 2.0, 0.7


def distilled(own: Tensor, logits: Tensor, teacher: Tensor) -> Tensor:
    """The loss `own` on labels, and for `SHARE` of it the divergence from a teacher's logits [n, classes]."""
    flat, target = (functional.log_softmax(part / TEMPERATURE, 1) for part in (logits, teacher))
    imitation = functional.kl_div(flat, target, reduction="batchmean", log_target=True)
    return (1.0 - SHARE) * own + SHARE * TEMPERATURE**2 * imitation
