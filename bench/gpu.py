"""What token levels are worth on a GPU: samples per second by level and batch, memory, and the served path.

    python bench/gpu.py                                  # ViT-B/16, ViT-L/16 and RoBERTa-large, random weights
    python bench/gpu.py --models vit_b16 --no-served     # one of them (each run replaces its own part of the result)
    python bench/gpu.py --quick --device cpu             # tiny models: tries the script itself, in seconds

Levels, and the ways to run them (CUDA graph, eager torch, timm or Hugging Face with fused attention at the plain level,
and the executor's own call from host to host), take turns within each round of a cell (gpu_cells.py). Figures are
medians with 95 % intervals, ratios are taken round by round. Over the FLOP ratio, 1.0 would mean that merging is free;
`pays_from` is the smallest batch at which a level is faster than the plain one beyond its interval. Small batches are
launch-bound where there is no graph: compare `graph` and `eager` there. Writes bench/results/gpu.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from gpu_cells import measure, memory_mb
from gpu_models import QUICK, SHAPES, Shape, save

from elastriton.core.profile import Precision
from elastriton.generator.machine import this_machine
from elastriton.runtime.buckets import Buckets
from elastriton.runtime.torch_encoder import DTYPES, TorchEncoder, default_precision, serving_device

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench/results"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every model, writing the result after each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", help=f"of {', '.join(SHAPES)}; with --quick of {', '.join(QUICK)}")
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 2, 4, 8, 16, 32, 64, 128])
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--device", default=serving_device())
    parser.add_argument("--precision", choices=sorted(DTYPES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--quick", action="store_true", help="tiny models, two batches, three rounds")
    parser.add_argument("--no-served", action="store_true", help="leave out the path through Triton (vision models)")
    arguments = parser.parse_args(argv)
    cuda = arguments.device.startswith("cuda")
    if not cuda and not arguments.quick:
        parser.error("no CUDA device here; --quick --device cpu tries the script itself")
    output = arguments.output or (ROOT / "build/gpu_quick.json" if arguments.quick else RESULTS / "gpu.json")
    if (arguments.quick or not cuda) and RESULTS in output.resolve().parents:
        parser.error(f"{output}: figures of tiny models or of a CPU are no results; give another --output")
    shapes = QUICK if arguments.quick else SHAPES
    batches, rounds = ([1, 2], 3) if arguments.quick else (arguments.batches, arguments.rounds)
    precision: Precision = arguments.precision or default_precision(arguments.device)

    results = json.loads(output.read_text(encoding="utf-8")) if output.is_file() else {}
    output.parent.mkdir(parents=True, exist_ok=True)
    for name in arguments.models or shapes:
        results[name] = setting(arguments.device, precision, arguments.seed, rounds)
        alone = parts(shapes[name], arguments.device, precision, batches, rounds, arguments.seed)
        through = [] if arguments.no_served else through_triton(shapes[name], precision, batches, arguments.seed)
        for part in chain(alone, through):
            results[name] |= part
            output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        show(name, results[name])


def parts(
    shape: Shape, device: str, precision: Precision, batches: Sequence[int], rounds: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Of one model: times and where levels pay, then, on CUDA, memory."""
    buckets = Buckets(tuple(sorted(batches)), shape.lengths)
    with tempfile.TemporaryDirectory() as scratch:
        save(shape, Path(scratch), seed)

        def encoder() -> TorchEncoder:
            return TorchEncoder(Path(scratch), shape.kind, device, precision, buckets)

        resident = encoder()
        rows = [
            row
            for tokens in shape.tokens
            for batch in buckets.batches
            for row in measure(resident, shape, batch, tokens, rounds)
        ]
        del resident
        yield {"rows": rows, "pays_from": pays_from(rows)}
        if device.startswith("cuda"):
            yield {"memory_mb": memory_mb(encoder, shape)}


def through_triton(shape: Shape, precision: Precision, batches: Sequence[int], seed: int) -> Iterator[dict[str, Any]]:
    """Of a vision model: the served path. It needs tritonserver, which a bare GPU machine may lack."""
    if shape.kind == "vision":
        from gpu_served import served

        yield {"served": served(shape, precision, batches, seed)}


def pays_from(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each way, length and merging level: the smallest batch at which it beats the plain one, or None."""
    found: dict[tuple[str, int, int], int | None] = {}
    for row in sorted(rows, key=lambda row: int(row["batch"])):
        if row["gamma"] < 0:
            key = (row["way"], row["tokens"], row["gamma"])
            faster = row["batch"] if row["speed_up"]["low"] > 1.0 else None
            found[key] = found.get(key) or faster
    return [{"way": w, "tokens": n, "gamma": gamma, "batch": batch} for (w, n, gamma), batch in found.items()]


def setting(device: str, precision: Precision, seed: int, rounds: int) -> dict[str, Any]:
    """Where, with what and how it was measured."""
    cuda = device.startswith("cuda")
    return {
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
        "capability": list(torch.cuda.get_device_capability(device)) if cuda else None,
        "cuda": torch.version.cuda if cuda else None,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "precision": precision,
        "seed": seed,
        "rounds": rounds,
        "machine": asdict(this_machine()),
    }


def show(name: str, result: dict[str, Any]) -> None:
    """A line for every cell."""
    print(f"{name} on {result['device']}, {result['precision']}")
    for row in result["rows"]:
        print(
            f"  {row['way']:>7} γ {row['gamma']:>3}  {row['batch']:>3} × {row['tokens']:>3} tokens"
            f"  {row['per_s']:>9.1f}/s"
            f"  ÷ γ 0 {row['speed_up']['median']:.2f}  ÷ FLOPs {row['speed_up_over_flop_ratio']['median']:.2f}"
            f"  ÷ library {row['over_library']['median']:.2f}"
        )
    for key in ("memory_mb", "served"):
        print(f"  {key}: {result.get(key)}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
