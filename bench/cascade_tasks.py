"""The tasks of bench/cascades.py: their models, how much of the labelled data calibrates, and their promise."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascade_data import TASKS, load_task

from elastriton.core.errors import ConfigError
from elastriton.generator.config import Config
from elastriton.generator.data import Labelled, load_data

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared/data/text"
MAX_DROP, DELTA = 0.01, 0.1
SCALES = (0.4, 0.7, 1.0)


@dataclass(frozen=True)
class Setting:
    """How many of a task's samples calibrate, and how many of the others test; its metric; the longest text in tokens.

    `sequential` bounds the samples that are sent one at a time.
    """

    calibration: int
    metric: str = "accuracy"
    inputs: int = 1
    max_length: int = 128
    test: int | None = None
    sequential: int | None = None
    kind: str = "text"


SETTINGS = {
    "sst2": Setting(3600),
    "clinc150": Setting(2300, max_length=64),
    "banking77": Setting(2300),
    "mrpc": Setting(850, inputs=2),
    "rte": Setting(620, inputs=2, max_length=320),
    "cola": Setting(1450, "matthews"),
    "stsb": Setting(1800, "spearman", inputs=2),
    "qnli": Setting(2300, inputs=2, max_length=256),
    "cifar10": Setting(800, test=150, sequential=60, kind="vision"),
}


def write_project(
    task: str,
    build: Path,
    served: str = "served",
    scales: Sequence[float] = SCALES,
    max_drop: float = MAX_DROP,
    floor: int = 4,
) -> Path:
    """An elastriton.yaml for one task, with its tiny model as a further candidate where there is one.

    Raises ConfigError where its models or data have not been made.
    """
    setting = SETTINGS[task]
    if task == "clinc150":
        models = {size: ROOT / f"examples/demo/models/clinc150-{size}" for size in ("large", "small")}
        data = ROOT / "examples/demo/data/clinc150.json"
    else:
        models = {size: build / f"models/{task}-{size}" for size in ("large", "small")}
        data = build / f"data/{task}.{'npz' if setting.kind == 'vision' else 'csv'}"
    missing = [str(path) for path in (*models.values(), data) if not path.exists()]
    if missing:
        script = "vision_cascade_models.py" if setting.kind == "vision" else f"cascade_models.py {task}"
        raise ConfigError(f"{', '.join(missing)} not found; run `python bench/{script}` first")
    tiny = build / f"models/{task}-tiny"
    small = [str(path.resolve()) for path in (tiny, models["small"]) if path.exists()]
    project = {
        "version": 1,
        "encoders": {"encoder": _encoder(setting, models["large"])},
        "tasks": {
            task: {
                "encoder": "encoder",
                "slo_ms": 1000,
                "inputs": setting.inputs,
                "objective": "regression" if task == "stsb" else "classification",
                "data": {"path": str(data.resolve()), "samples": setting.calibration},
                "cascade": _cascade(setting, small, scales, max_drop, floor),
            }
        },
    }
    folder = build / served / task
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "elastriton.yaml"
    path.write_text(json.dumps(project, indent=1))  # JSON is YAML
    return path


def _encoder(setting: Setting, model: Path) -> dict[str, Any]:
    encoder: dict[str, Any] = {"kind": setting.kind, "model": str(model.resolve())}
    if setting.kind == "vision":
        return encoder | {"batches": [1, 2, 4]}
    lengths = [*(n for n in (16, 32, 64, 128, 256) if n < setting.max_length), setting.max_length]
    return encoder | {"max_length": setting.max_length, "lengths": lengths, "batches": [1, 2, 4, 8, 16]}


def _cascade(
    setting: Setting, small: list[str], scales: Sequence[float], max_drop: float, floor: int
) -> dict[str, Any]:
    cascade: dict[str, Any] = {"models": small, "depth": len(small), "max_drop": max_drop, "delta": DELTA}
    if setting.kind == "vision":
        return cascade
    return cascade | {"max_length": setting.max_length, "scales": list(scales), "floor": floor}


def labelled(config: Config, task: str, base: Path) -> tuple[Labelled, Labelled]:
    """What calibrates, and what tests."""
    source, test = config.tasks[task].data, SETTINGS[task].test
    assert source is not None
    data = load_data(base / source.path)
    return data.part(0, source.samples), data.part(source.samples, None if test is None else source.samples + test)


def training_items(task: str, seed: int) -> tuple[list[tuple[str, ...]], list[str]]:
    """What the models of a task were trained on: texts and labels."""
    if task == "clinc150":
        items = json.loads((SHARED / "clinc150/data_train_val.json").read_text())["train"]
        return [(text,) for text, _ in items], [intent for _, intent in items]
    assert task in TASKS
    train, _, _ = load_task(task, SHARED, seed)
    return [texts for texts, _ in train], [label for _, label in train]
