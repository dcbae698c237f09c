"""Decoders that are behind: what a request must have left when its turn comes, and the share answered in time.

    python bench/live.py --requests 1000 && python bench/late.py      # on its build; 4 minutes

EuroSAT's images as photographs of 1024 x 1024, which take long to decode, at a server whose decoders ask for
`margin_ms` (0 decodes whatever is not late yet). Writes bench/results/late.json, a record per margin and rate with the
figures of `elastriton replay`.
"""

from __future__ import annotations

import asyncio
import io
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from overhead import TASK
from PIL import Image

from elastriton.core.plan import Plan
from elastriton.generator.config import load_config
from elastriton.generator.goals import plan_for
from elastriton.generator.loads import make_load
from elastriton.generator.machine import this_machine
from elastriton.generator.replay import Sample, labelled_samples, replay, summarise
from elastriton.generator.repository import generate
from elastriton.generator.serve import Server
from elastriton.runtime.decoding import BUSY

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build/live"
SIDE, SLO_MS, PHOTOS = 1024, 300.0, 150
MARGINS_MS = (0.0, 18.0, 40.0, 80.0, 150.0)
RATES_PER_S = (60, 120, 200)
FOR_S = 6


def main() -> None:
    """Serve with every margin, replay at every rate, write."""
    config = load_config(BUILD / "elastriton.yaml")
    plan = plan_for(config, BUILD)
    samples = [photograph(sample) for sample in labelled_samples(config, BUILD, [TASK])[TASK][:PHOTOS]]
    records = [record for margin_ms in MARGINS_MS for record in served(plan, samples, margin_ms)]
    result = {"side": SIDE, "slo_ms": SLO_MS, "records": records, "machine": asdict(this_machine())}
    (ROOT / "bench/results/late.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def photograph(sample: Sample) -> Sample:
    """The sample with a large image."""
    assert sample.image is not None
    file = io.BytesIO()
    Image.open(io.BytesIO(sample.image)).resize((SIDE, SIDE)).save(file, "JPEG", quality=90)
    return replace(sample, image=file.getvalue(), slo_ms=SLO_MS)


def served(plan: Plan, samples: Sequence[Sample], margin_ms: float) -> list[dict[str, Any]]:
    """The records of a server whose decoders want `margin_ms`."""
    decoders = {name: replace(one, needed_ms=margin_ms / BUSY) for name, one in plan.decoders.items()}
    records = []
    with tempfile.TemporaryDirectory() as scratch:
        generate(replace(plan, decoders=decoders), BUILD, Path(scratch) / "repository")
        with Server(Path(scratch) / "repository", log=Path(scratch) / "log") as server:
            for rate in (20, *RATES_PER_S):  # the first one warms up
                n = FOR_S * rate
                load, drawn = make_load("poisson", n, rate, 0), [samples[i % len(samples)] for i in range(n)]
                sent = asyncio.run(replay(f"grpc://{server.grpc_url}", load, drawn))
                records.append({"margin_ms": margin_ms, "rate_per_s": rate, **asdict(summarise(sent))})
                print(f"margin {margin_ms:g} ms, {rate} per s: {records[-1]['on_time']:.3f} in time", flush=True)
    return records[1:]


if __name__ == "__main__":
    main()
