"""The labelled data of a task, read and checked: what is wrong with it is said before minutes of measuring.

elastriton.yaml ─► data.py (the file) ─► here ─► evaluate.py (accuracy), cascades.py (small models)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from elastriton.core.errors import ConfigError
from elastriton.core.plan import Kind
from elastriton.generator.config import Config, TaskConfig
from elastriton.generator.data import Labelled, label_numbers, load_data, values
from elastriton.generator.splits import certified_splits, item_hash
from elastriton.runtime.preparing import Row


def all_data(config: Config, base: Path) -> dict[str, Labelled]:
    """The samples of every task that has data. Raises ConfigError where they cannot serve it."""
    return {name: _task_data(name, task, config, base) for name, task in config.tasks.items() if task.data is not None}


def rows(data: Labelled) -> Sequence[Row]:
    """The samples as clients send them."""
    images: list[Row] = [(image,) for image in data.images]
    return images or data.texts


def truth(data: Labelled, task: TaskConfig, labels: Sequence[str]) -> NDArray[Any]:
    """The right class numbers [n], or the values [n] of a regression. Raises ConfigError for other labels."""
    return values(data) if task.objective == "regression" else label_numbers(data, labels)


def check_kind(name: str, kind: Kind, data: Labelled, path: Path | str) -> None:
    """Raise ConfigError where the data of a task are not of its encoder's kind, or too few to fit and to judge."""
    found = len(data.images) if kind == "vision" else len(data.texts)
    if found < 2:
        wanted = "images" if kind == "vision" else "texts"
        raise ConfigError(f"task {name}: {path} holds {found} {wanted}; give two at least")


def _task_data(name: str, task: TaskConfig, config: Config, base: Path) -> Labelled:
    assert task.data is not None
    data = load_data(base / task.data.path).part(0, task.data.samples)
    check_kind(name, config.encoders[task.encoder].kind, data, task.data.path)
    if task.labels is not None or task.objective == "regression":
        truth(data, task, task.labels or ())
    if task.cascade is not None:
        hashes = [item_hash(row) for row in rows(data)]
        certified_splits(hashes, task.data.n_fit(len(hashes)), config.seed)
    return data
