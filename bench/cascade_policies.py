"""The policies of bench/cascades.py that are served: each a choice for the same profile, models and labelled data.

large-only, small-only    one model answers everything
cocktail                  both models answer everything and vote (Cocktail, NSDI'22): probabilities are averaged
tabi-empirical            Tabi's search: the cheapest setting whose drop on all labelled data is at most max_drop
ours                      the certified choice; `ours-no-pruning` and `ours-no-ensemble` leave a part out
"""

from __future__ import annotations

import numpy as np

from elastriton.core.profile import EncoderProfile, TaskProfile
from elastriton.core.promise import CascadeChoice
from elastriton.generator.cached import Cached
from elastriton.generator.certify import choose_cascade
from elastriton.generator.config import CascadeConfig
from elastriton.generator.search import Cascades, Setting, bound

ALWAYS, NEVER = -1e9, 1e9
POLICIES = (
    "large-only", "small-only", "cocktail", "tabi-empirical", "ours", "ours-no-pruning", "ours-no-ensemble",
)  # fmt: skip


def choices(
    cached: Cached, task: TaskProfile, encoder: EncoderProfile, config: CascadeConfig, hop_ms: float, seed: int
) -> dict[str, CascadeChoice]:
    """What each policy would serve."""
    certified = {
        "ours": lambda _setting: True,
        "ours-no-pruning": lambda setting: setting.rule is None,
        "ours-no-ensemble": lambda setting: setting.small_weight == 0.0,
    }
    found = {
        name: choose_cascade(cached, task, encoder, config, hop_ms=hop_ms, seed=seed, keep=keep)
        for name, keep in certified.items()
    }
    score = "uncertainty" if task.objective == "regression" else config.score
    found |= {
        "large-only": CascadeChoice("the large model alone"),
        "small-only": CascadeChoice("the small model alone", small=((0, ALWAYS),), score=score),
        "cocktail": CascadeChoice("both models", small=((0, NEVER),), score=score, small_weight=0.5),
        "tabi-empirical": empirical(cached, task, encoder, config, hop_ms),
    }
    return {name: found[name] for name in POLICIES}


def empirical(
    cached: Cached, task: TaskProfile, encoder: EncoderProfile, config: CascadeConfig, hop_ms: float
) -> CascadeChoice:
    """The cheapest setting that keeps its word on the data it was chosen on."""
    cascades = Cascades(cached, task, encoder, config.score, hop_ms)
    rows = np.arange(len(cached))
    large = cascades.losses(cascades.large, rows)
    best: tuple[float, Setting] | None = None
    for setting in cascades.settings(rows, config.depth):
        course = cascades.play(setting, rows)
        risk = (course.loss - large).mean() if config.max_drop is not None else course.loss.mean()
        cost_ms = float(course.cost_ms.mean())
        if risk <= bound(config) and (best is None or cost_ms < best[0]):
            best = cost_ms, setting
    if best is None or task.cascade is None:
        return CascadeChoice("nothing keeps the bound")
    setting = best[1]
    return CascadeChoice(
        note="chosen and judged on the same data",
        small=tuple(zip(setting.chain, setting.thresholds, strict=True)),
        score=cascades.score,
        small_weight=setting.small_weight,
        pruning=None if setting.rule is None else task.cascade.rules[setting.rule],
    )
