"""Data of the cascade bench: of each task what is trained on, and a pool that is fitted, certified and tested on.

Pool: the dev split and a part of train, shuffled together by seed so that its rows are exchangeable; what remains of
train is trained on. A text (or pair) is kept once over both, whatever its case and label. QNLI has no train file here
and BANKING77 no dev file: the only file is split.

Rows are exchangeable, yet not all unrelated: pairs of RTE and QNLI share premises, and SST-2's train file, most of its
pool, holds phrases of sentences of which other phrases are trained on, so that accuracy on it is optimistic.

Labels are class names; STS-B's is a score, as text. The data are for research, most of them without an open licence
(../shared/data/MANIFEST.md): none is shipped.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from elastriton.core.errors import ConfigError
from elastriton.generator.data import read_data

Item = tuple[tuple[str, ...], str]  # a text or a pair, and its label


@dataclass(frozen=True)
class Task:
    """Where a task's columns are, what of its train file goes to the pool, and how it is trained."""

    texts: tuple[int, ...]
    label: int
    held_out: int
    epochs: int
    names: tuple[str, ...] = ()  # of the labels 0 and 1, where the file has numbers
    header: bool = True
    regression: bool = False
    layers: int = 2  # of the small model
    frozen: int = 3  # layers of the large model, from the first
    start: str = ""  # the task whose large model this one's starts from


TASKS = {
    "mrpc": Task((3, 4), 0, 800, 8, names=("different", "paraphrase"), layers=3),
    "stsb": Task((7, 8), 9, 1000, 6, regression=True, layers=3),
    "cola": Task((3,), 1, 1000, 8, names=("unacceptable", "acceptable"), header=False, frozen=0),
    "banking77": Task((0,), 1, 3000, 12),
    "sst2": Task((0,), 1, 4000, 2, names=("negative", "positive")),
    "qnli": Task((1, 2), 3, 3000, 12, layers=3, frozen=0),
    "rte": Task((1, 2), 3, 600, 12, layers=3, frozen=0, start="qnli"),
}


def load_task(name: str, folder: Path, seed: int) -> tuple[list[Item], list[Item], set[Item]]:
    """What is trained on, the pool, and the items of the dev split. Raises ConfigError where there are no files."""
    task, source = TASKS[name], folder / name
    dev = read_items(source / "dev.tsv", task)
    train = read_items(source / "train.tsv", task) or read_items(source / "train.csv", task)
    if not train and not dev:
        raise ConfigError(f"no data of {name} in {source}; pass --data")
    kept, pool = split(train, dev, task.held_out, seed) if train else split(dev, [], task.held_out, seed)
    return kept, pool, set(dev)


def read_items(path: Path, task: Task) -> list[Item]:
    """The rows of a GLUE .tsv, in which quotes mean nothing, or of a .csv; none where there is no such file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8-sig", newline="") as file:
        glue = path.suffix == ".tsv"
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if glue else csv.reader(file))
    names = {str(number): name for number, name in enumerate(task.names)}
    return [
        (tuple(row[column].strip() for column in task.texts), names.get(row[task.label], row[task.label]))
        for row in rows[task.header :]
    ]


def split(train: Sequence[Item], dev: Sequence[Item], held_out: int, seed: int) -> tuple[list[Item], list[Item]]:
    """What is trained on, and the pool: `dev` and `held_out` items of `train`, shuffled; of equal texts the first."""
    unique: dict[tuple[str, ...], tuple[Item, bool]] = {}
    for item, is_dev in [*((item, True) for item in dev), *((item, False) for item in train)]:
        unique.setdefault(tuple(" ".join(text.lower().split()) for text in item[0]), (item, is_dev))
    rng = np.random.default_rng(seed)
    rest = [item for item, is_dev in unique.values() if not is_dev]
    order = rng.permutation(len(rest))
    pool = [item for item, is_dev in unique.values() if is_dev] + [rest[i] for i in order[:held_out]]
    return [rest[i] for i in order[held_out:]], [pool[i] for i in rng.permutation(len(pool))]


def write_table(path: Path, items: Sequence[Item]) -> None:
    """Write items, whole or not at all, as generator/data.py reads them. Raises ConfigError where it cannot."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}")
    with unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*("text", "text_pair")[: len(items[0][0])], "label"])
        writer.writerows([*texts, label] for texts, label in items)
    back = read_data(unfinished)
    if list(zip(back.texts, back.labels, strict=True)) != list(items):
        raise ConfigError(f"{path} does not read back as it was written")
    unfinished.replace(path)
