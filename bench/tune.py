"""Prompts against a control with as many trained numbers that is merged and costs no tokens: bench/results/tune.json.

    python bench/tune.py --minutes 5                    # EuroSAT, prompts in every layer: about 2 x 5 minutes
    python bench/tune.py --task cifar10 --shallow       # another task or variant; the results are kept side by side
    python bench/tune.py --task clinc150                # prompts for texts

`elastriton tune` on the demo's encoders. Images: trained on the 10,000 training images of ../shared/data, judged on the
test images behind the fit part; the encoder was trained on EuroSAT's training images, CIFAR-10 is foreign to it and has
a linear probe for a head. Texts: MiniLM with the demo's head for CLINC150, trained on TRAINED of the 15,000 training
texts, which the head has seen, judged on those behind the fit part.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from live_tasks import DATA, write_part, write_project

from elastriton.generator.adapt import Training
from elastriton.generator.config import load_config
from elastriton.generator.machine import this_machine
from elastriton.generator.show import show_tuning
from elastriton.generator.tune import tune

ROOT = Path(__file__).parents[1]
TEXTS = ROOT.parent / "shared/data/text/clinc150/data_train_val.json"
GAMMAS = (0, 2, 4, 8)
TRAINED = 6000


def main() -> None:
    """Write the project, tune, print, and add the figures to the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="eurosat", choices=("eurosat", "cifar10", "clinc150"))
    parser.add_argument("--shallow", action="store_true")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--learning-rate", type=float, default=5e-3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--build", type=Path, default=ROOT / "build/tune")
    parser.add_argument("--output", type=Path, default=ROOT / "bench/results/tune.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    project, train = make_project(arguments.task, arguments.build, arguments.data)
    settings = load_config(project)
    place = settings.tasks[arguments.task].encoder
    encoder = settings.encoders[place].model_copy(update={"levels": GAMMAS})
    training = Training(arguments.epochs, arguments.minutes, learning_rate=arguments.learning_rate)
    name = f"{arguments.task}, {'shallow' if arguments.shallow else 'deep'}"
    result = tune(
        arguments.task,
        settings.model_copy(update={"encoders": {place: encoder}}),
        project.parent,
        arguments.build / f"{name.replace(', ', '_')}_prompts.safetensors",
        data=train,
        shallow=arguments.shallow,
        training=training,
        advance=lambda step: print(step, flush=True),
    )
    show_tuning(result)
    results = json.loads(arguments.output.read_text(encoding="utf-8")) if arguments.output.is_file() else {}
    results[name] = asdict(result) | {"training": asdict(training), "machine": asdict(this_machine())}
    arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def make_project(task: str, build: Path, data: Path) -> tuple[Path, Path]:
    """The configuration, and the samples to train on, which are written to `build`."""
    if task != "clinc150":
        project, train = write_project(build, data), build / f"{task}_train.npz"
        write_part(data / f"{task}.npz", "train", train)
        return project, train
    build.mkdir(parents=True, exist_ok=True)
    project = ROOT / "examples/demo/elastriton.yaml"
    shipped = json.loads((project.parent / "data/clinc150.json").read_text(encoding="utf-8"))["items"]
    judged = {text for text, _ in shipped}  # three of the training texts are among them
    items = json.loads(TEXTS.read_text(encoding="utf-8"))["train"]
    order = np.random.default_rng(0).permutation(len(items))[:TRAINED]
    train = build / "clinc150_train.json"
    train.write_text(json.dumps({"items": [items[i] for i in order if items[i][0] not in judged]}), encoding="utf-8")
    return project, train


if __name__ == "__main__":
    main()
