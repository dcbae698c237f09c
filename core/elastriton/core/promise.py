"""What a cascade's calibration data certified, for the plan: the promise, its evidence, and what to expect."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from elastriton.core.audit import AuditPlan
from elastriton.core.confidence import Score
from elastriton.core.pruning import Pruning


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % bootstrap interval: a description, not a promise."""

    low: float
    value: float
    high: float


@dataclass(frozen=True, slots=True)
class Promise:
    """With probability 1 - `delta` over the calibration data, the served risk is at most `bound`.

    The risk is that of `kind`: "max_drop", the loss beyond the large model's alone; "target_accuracy", the loss itself.
    The loss of a sample is 1 for a wrong class, and for a regression its absolute error over the labels' range.
    `n` samples certified it at `p_value` after `tested` settings in a fixed sequence (Learn-then-Test, arXiv
    2110.01052); `splits` are the SHA-256 of the fit, order and certify samples. The figures behind are those of the
    certify split: `loss`, `large_loss`, `early_return`, the share of words cut from re-routed texts, the mean cost.
    """

    kind: Literal["max_drop", "target_accuracy"]
    bound: float
    delta: float
    n: int
    p_value: float
    tested: int
    splits: dict[str, str]
    loss: float
    large_loss: float
    early_return: float
    words_pruned: float
    mean_ms: float
    large_ms: float
    metrics: dict[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CascadeChoice:
    """What the search found for a task (generator/search.py): small models by their number and threshold, and the rest.

    Without small models the large one answers everything, and `note` says why.
    """

    note: str
    small: tuple[tuple[int, float], ...] = ()
    score: Score = "max"
    small_weight: float = 0.0
    pruning: Pruning | None = None
    promise: Promise | None = None
    audit: AuditPlan | None = None
