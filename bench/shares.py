"""Who gets the cores: an encoder that always has work, and requests that need none, side by side.

    make demo && python bench/shares.py        (about 6 minutes; writes bench/results/shares.json)

A server rejects every request (as for surroundings.py's `host_ms`), sent at several rates, the last of them more than
it keeps up with; the same again beside an encoder that never rests (restless.py), at one level. `requests` is how many
per second came through, ÷ that without the encoder; `encoder` its speed, ÷ that without requests; `lost_ms` what it
loses of its time by each request. At the last rate `requests` is host.py's SHARE: both have work all the time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from overhead import ROOT, TASK, executor_of, only_level
from restless import BATCH, Restless, restless
from spread import spread
from surroundings import SATURATING_PER_S, lost_ms, rejected

from elastriton.core.plan import PLAN_FILE, Plan
from elastriton.core.records import load
from elastriton.generator.config import load_config
from elastriton.generator.data import load_data
from elastriton.generator.machine import this_machine
from elastriton.generator.repository import generate
from elastriton.generator.serve import Server
from elastriton.runtime.images import decode_image

RATES = (50.0, 100.0, 300.0, 600.0, SATURATING_PER_S)
SENT_S, AT_MOST = 3.0, 1500


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=ROOT / "build/demo")
    parser.add_argument("--output", type=Path, default=ROOT / "bench/results/shares.json")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    plan = load(Plan, arguments.build / PLAN_FILE)
    config = load_config(ROOT / "examples/demo/elastriton.yaml").tasks[TASK]
    assert config.data is not None
    images = list(load_data(ROOT / "examples/demo" / config.data.path).images)
    spec = plan.decoders[f"{TASK}_decode"].image
    pixels = np.stack([decode_image(image, spec) for image in images[:BATCH]])
    gammas = {point.gamma for point in plan.schedulers[plan.tasks[TASK].scheduler].tasks[TASK].accuracy}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        generate(only_level(plan, 0), arguments.build, Path(folder) / "repository")
        with Server(Path(folder) / "repository", log=Path(folder) / "log") as server:
            url = f"grpc://{server.grpc_url}"
            for gamma in (0, min(gammas)):
                with restless(executor_of(plan), arguments.build, pixels, gamma) as encoder:
                    for rate in RATES:
                        found = beside(encoder, url, images, rate, arguments.rounds)
                        rows.append({"gamma": gamma, "rate_per_s": rate} | found)
                        print(json.dumps(rows[-1]))
    result = {"rows": rows, "rounds": arguments.rounds, "machine": asdict(this_machine())}
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def beside(encoder: Restless, url: str, images: list[bytes], rate: float, rounds: int) -> dict[str, dict[str, float]]:
    """Encoder and requests at a rate, with and without each other, in turns."""
    n = min(int(SENT_S * rate), AT_MOST)
    sent = [images[index % len(images)] for index in range(n)]
    figures: dict[str, list[float]] = {"requests": [], "encoder": [], "lost_ms": []}
    for turn in range(rounds):
        from_s, to_s = rejected(url, sent, rate, turn)
        speed, span = encoder.beside(partial(rejected, url, sent, rate, turn))
        figures["requests"].append((to_s - from_s) / (span[1] - span[0]))
        figures["encoder"].append(speed)
        figures["lost_ms"].append(lost_ms(speed, span, n))
    return {name: spread(values) for name, values in figures.items()}


if __name__ == "__main__":
    main()
