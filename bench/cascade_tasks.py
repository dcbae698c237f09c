"""The tasks of bench/cascades.py: their models, how much of the labelled data calibrates, and their promise."""

from __future__ import annotations

import json
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
    """How many of a task's samples calibrate (the others test), its metric, and the longest text in tokens."""

    calibration: int
    metric: str = "accuracy"
    inputs: int = 1
    max_length: int = 128


SETTINGS = {
    "sst2": Setting(3600),
    "clinc150": Setting(2300, max_length=64),
    "banking77": Setting(2300),
    "mrpc": Setting(850, inputs=2),
    "rte": Setting(620, inputs=2, max_length=256),
    "cola": Setting(1450, "matthews"),
    "stsb": Setting(1800, "spearman", inputs=2),
    "qnli": Setting(2300, inputs=2, max_length=256),
}


def write_project(task: str, build: Path) -> Path:
    """An elastriton.yaml for one task. Raises ConfigError where its models or data have not been made."""
    setting = SETTINGS[task]
    if task == "clinc150":
        models = {size: ROOT / f"examples/demo/models/clinc150-{size}" for size in ("large", "small")}
        data = ROOT / "examples/demo/data/clinc150.json"
    else:
        models = {size: build / f"models/{task}-{size}" for size in ("large", "small")}
        data = build / f"data/{task}.tsv"
    missing = [str(path) for path in (*models.values(), data) if not path.exists()]
    if missing:
        raise ConfigError(f"{', '.join(missing)} not found; run `python bench/cascade_models.py {task}` first")
    lengths = [n for n in (16, 32, 64, 128, 256) if n <= setting.max_length]
    encoder = {"kind": "text", "model": str(models["large"].resolve()), "max_length": setting.max_length}
    cascade: dict[str, Any] = {"models": [str(models["small"].resolve())], "max_length": setting.max_length}
    cascade |= {"max_drop": MAX_DROP, "delta": DELTA, "scales": list(SCALES)}
    project = {
        "version": 1,
        "encoders": {"minilm": encoder | {"lengths": lengths, "batches": [1, 2, 4, 8, 16]}},
        "tasks": {
            task: {
                "encoder": "minilm",
                "slo_ms": 1000,
                "inputs": setting.inputs,
                "objective": "regression" if task == "stsb" else "classification",
                "data": {"path": str(data.resolve()), "samples": setting.calibration},
                "cascade": cascade,
            }
        },
    }
    folder = build / "served" / task
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "elastriton.yaml"
    path.write_text(json.dumps(project, indent=1))  # JSON is YAML
    return path


def labelled(config: Config, task: str, base: Path) -> tuple[Labelled, Labelled]:
    """What calibrates, and what tests."""
    source = config.tasks[task].data
    assert source is not None
    data = load_data(base / source.path)
    return data.part(0, source.samples), data.part(source.samples)


def training_items(task: str, seed: int) -> tuple[list[tuple[str, ...]], list[str]]:
    """What the models of a task were trained on: texts and labels."""
    if task == "clinc150":
        items = json.loads((SHARED / "clinc150/data_train_val.json").read_text())["train"]
        return [(text,) for text, _ in items], [intent for _, intent in items]
    assert task in TASKS
    train, _, _ = load_task(task, SHARED, seed)
    return [texts for texts, _ in train], [label for _, label in train]
