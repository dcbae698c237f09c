"""The policies of bench/cascades.py that are served: each a choice for the same profile, models and labelled data.

large-only, small-only    one model answers everything
cocktail                  both models answer everything and vote (Cocktail, NSDI'22): probabilities are averaged
deebert, agreement        entropy exits (ACL 2020) and agreement of a cheap tier (ABC), on the same encoder: exits.py
tabi-empirical            Tabi's search: the cheapest pair whose drop on all labelled data is at most max_drop
ours                      the certified pair; `ours-no-pruning` and `ours-no-ensemble` leave a part out
hop, hop-pruned           every text goes through the small model and on, whole or pruned: what the extra hop costs, and
                          what pruning gives back, at the largest scale that keeps the bound were all texts re-routed
tiny-only, ours-three-levels   where a task has a tiny model: it alone, and the certified chain of all three
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from elastriton.core.profile import EncoderProfile, TaskProfile
from elastriton.core.promise import CascadeChoice
from elastriton.generator.cached import Cached
from elastriton.generator.certify import choose_cascade
from elastriton.generator.config import CascadeConfig
from elastriton.generator.search import Cascades, Setting, bound

ALWAYS, NEVER = -1e9, 1e9


def choices(
    cached: Cached, task: TaskProfile, encoder: EncoderProfile, config: CascadeConfig, hop_ms: float, seed: int
) -> dict[str, CascadeChoice]:
    """What each policy would serve."""
    regression, small = task.objective == "regression", len(cached.small) - 1
    score = "uncertainty" if regression else config.score
    certified: dict[str, Callable[[Setting], bool]] = {
        "ours": lambda setting: len(setting.chain) == 1,
        "ours-no-pruning": lambda setting: len(setting.chain) == 1 and setting.rule is None,
        "ours-no-ensemble": lambda setting: len(setting.chain) == 1 and setting.small_weight == 0.0,
    }
    found = {
        "large-only": CascadeChoice("the large model alone"),
        "small-only": CascadeChoice("the small model alone", small=((small, ALWAYS),), score=score),
        "cocktail": CascadeChoice("both models", small=((small, NEVER),), score=score, small_weight=0.5),
        "tabi-empirical": empirical(cached, task, encoder, config, hop_ms),
    }
    rules = [rule for number, rule in cached.pruned if number == small]
    if rules:
        assert task.cascade is not None
        hop = CascadeChoice("re-routed whole", small=((small, NEVER),), score=score)
        rule = largest_rule(Cascades(cached, task, encoder, config.score, hop_ms), small, rules, config)
        found |= {"hop": hop, "hop-pruned": replace(hop, note="and pruned", pruning=task.cascade.rules[rule])}
    if small > 0:
        certified["ours-three-levels"] = lambda setting: len(setting.chain) == 2
        found["tiny-only"] = CascadeChoice("the tiny model alone", small=((0, ALWAYS),), score=score)
    found |= {
        name: choose_cascade(cached, task, encoder, config, hop_ms=hop_ms, seed=seed, keep=keep)
        for name, keep in certified.items()
    }
    return found


def largest_rule(cascades: Cascades, small: int, rules: Sequence[int], config: CascadeConfig) -> int:
    """The last rule whose pruned texts alone keep the bound on labelled data, or the first where none does."""
    rows = np.arange(len(cascades.truth))
    whole = cascades.losses(cascades.large, rows)

    def risk(rule: int) -> float:
        lost = cascades.losses(cascades.pruned[small, rule], rows)
        return float((lost - whole if config.max_drop is not None else lost).mean())

    return max((rule for rule in rules if risk(rule) <= bound(config)), default=rules[0])


def empirical(
    cached: Cached, task: TaskProfile, encoder: EncoderProfile, config: CascadeConfig, hop_ms: float
) -> CascadeChoice:
    """The cheapest setting of one small model that keeps its word on the data it was chosen on."""
    cascades = Cascades(cached, task, encoder, config.score, hop_ms)
    rows = np.arange(len(cached))
    large = cascades.losses(cascades.large, rows)
    best: tuple[float, Setting] | None = None
    for setting in cascades.settings(rows, 1):
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
