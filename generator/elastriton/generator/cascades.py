"""Measure a task's cascade: run each small model once over the labelled data, and the large one once per pruning rule.

samples ─► candidates.py: logits, attention ─► pruned.py: shorter texts ─► large model ─► cached.py ─► search.py decides
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from elastriton.core import names
from elastriton.core.profile import Artifact, CascadeProfile, digest
from elastriton.core.pruning import Pruning
from elastriton.generator.cached import Answers, Cached, save_cached
from elastriton.generator.candidates import Candidate, CascadeTask
from elastriton.generator.config import CascadeConfig
from elastriton.generator.measure import Advance
from elastriton.generator.pruned import token_counts
from elastriton.generator.search import hopeless
from elastriton.generator.splits import item_hash
from elastriton.runtime.preparing import preparation


def measure_cascade(
    setting: CascadeTask, config: CascadeConfig, base: Path, output: Path, *, budget_s: float, advance: Advance
) -> CascadeProfile:
    """Export the small models, run everything once, and write the answers to `output`."""
    plan = setting.prepared.plan
    tokenizer = output / setting.prepared.tokenizer.path if setting.prepared.tokenizer else output
    reader = preparation(setting.name, plan.text, plan.image, tokenizer, setting.task.inputs)
    readings = [reader.read(row) for row in setting.rows] if plan.kind == "text" else [None] * len(setting.rows)
    large = Answers(setting.plain, token_counts(readings, reader))
    rules = _rules(config)
    small, said, pruned, words_cut = [], [], {}, {}
    incumbent_ms = np.inf
    for number in range(len(config.models)):
        candidate = Candidate(setting, config, number, large, base, output)
        small.append(candidate.profile(budget_s, advance))
        said.append(candidate.answers)
        fastest_ms = candidate.least_ms(large, small[-1])
        if fastest_ms >= incumbent_ms:
            continue
        incumbent_ms = fastest_ms
        for j, rule in enumerate(rules):
            pruned[number, j], words_cut[number, j] = candidate.pruned(reader, large, rule)
            advance(f"{setting.name}: rule {j} for texts after small model {number}")
            cached = Cached(setting.truth, (), large, (), {(0, 0): pruned[number, j]})
            if rule.keep_rate is None and hopeless(cached, config, setting.n_fit):
                break  # a larger scale removes more
    items = tuple(item_hash(tuple(row)) for row in setting.rows)
    folder = output / names.cascade(setting.name)
    folder.mkdir(exist_ok=True)
    save_cached(Cached(setting.truth, items, large, tuple(said), pruned, words_cut), folder)
    return CascadeProfile(tuple(small), rules, Artifact(folder.relative_to(output).as_posix(), digest(folder)))


def _rules(config: CascadeConfig) -> tuple[Pruning, ...]:
    never = tuple(word.lower() for word in config.never_prune)
    by_share = [Pruning(keep_rate=rate, floor=config.floor, never=never) for rate in sorted(config.keep_rates)[::-1]]
    by_scale = [Pruning(scale=scale, floor=config.floor, never=never) for scale in sorted(config.scales)]
    return tuple(by_share + by_scale)
