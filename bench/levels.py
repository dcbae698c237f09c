"""What token levels save: measured speed-up ÷ FLOP ratio on ONNX Runtime, and the memory of eight levels beside one.

    python bench/levels.py                                       # the demo's compact ViT, a few minutes
    python bench/levels.py --model vit_base_patch16_224 --batches 8 --rounds 7    # a timm id, random weights

The FLOP ratio counts what the encoder must compute at the level (projections, attention, MLP, CLS alone in the last
block, for every level alike) and nothing of the merging itself: 1.0 means that merging is free. `dropping` is the same
ratio of graphs that reach as many tokens by dropping them, `two_merges` of levels that merge in the first two layers
alone, at about as many FLOPs. Levels take turns in each round; figures are medians over rounds with their quartiles.
Memory is the proportional set size (a page that is mapped twice counts once) of a fresh executor process that has
loaded the levels and run each once. Writes bench/results/levels.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from elastriton.core.levels import TokenLevel, constant_level, flops, token_counts
from elastriton.generator.machine import this_machine
from elastriton.runtime.executor import Arrays
from elastriton.runtime.onnx_encoder import OnnxEncoder

ROOT = Path(__file__).parents[1]
Shape = dict[str, int]
Levels = dict[str, list[TokenLevel]]
"""By variant; `merging` is the product's."""

RESIDENT = """
import sys, pathlib, numpy as np, psutil
from elastriton.core.levels import constant_level
from elastriton.runtime.onnx_encoder import OnnxEncoder
import onnxruntime
gammas, side = [int(gamma) for gamma in sys.argv[2].split(",") if gamma], int(sys.argv[3])
encoder = OnnxEncoder(pathlib.Path(sys.argv[1]), gammas)
for gamma in gammas:
    encoder.features({"pixels": np.zeros((8, side, side, 3), np.uint8)}, constant_level(gamma, int(sys.argv[4])))
print(psutil.Process().memory_full_info().pss)
"""


def main() -> None:
    """Export, measure in turns, write the result, print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(ROOT / "examples/demo/models/eurosat-vit"))
    parser.add_argument("--levels", nargs="*", type=int, default=[-20, -16, -14, -12, -10, -8, -4, 0])
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--output", type=Path, default=ROOT / "bench/results/levels.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shape, levels = export(arguments.model, arguments.levels, folder)
        encoders = {name: OnnxEncoder(folder / name, arguments.levels) for name in levels}
        side, depth = shape["side"], shape["depth"]
        work = {name: {level.gamma: flops_of(level, shape) for level in own} for name, own in levels.items()}
        pixels = np.random.default_rng(0).integers(0, 256, (max(arguments.batches), side, side, 3), dtype=np.uint8)
        rows = [
            {"batch": batch} | row
            for batch in arguments.batches
            for row in speed_ups(encoders, levels, work, {"pixels": pixels[:batch]}, arguments.rounds)
        ]
        encoders.clear()  # their mappings of the weights would take their share of the pages
        memory = {
            "one_level_mb": resident_mb(folder / "merging", [0], side, depth),
            "all_levels_mb": resident_mb(folder / "merging", arguments.levels, side, depth),
            "levels": len(arguments.levels),
        }
    memory["ratio"] = round(memory["all_levels_mb"] / memory["one_level_mb"], 3)
    results = json.loads(arguments.output.read_text(encoding="utf-8")) if arguments.output.is_file() else {}
    name = Path(arguments.model).name
    results[name] = {"shape": shape, "rows": rows, "memory": memory, "machine": asdict(this_machine())}
    arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        print(row)
    print(memory)


def export(model: str, gammas: Sequence[int], folder: Path) -> tuple[Shape, Levels]:
    """Write the graphs of a folder's or a timm id's encoder, in all variants; return its shape and levels."""
    import timm
    import torch

    from elastriton.generator.export import export_vision
    from elastriton.runtime.models import load_vision
    from elastriton.runtime.vit import ElasticViT

    class Dropping(ElasticViT):
        def _merging(self, x: Any, level: TokenLevel) -> tuple[Any, None]:
            counts = token_counts(level, x.shape[1], len(self.vit.blocks), self.prefix)
            for block, left in zip(self.vit.blocks[:-1], counts[1:-1], strict=True):
                x = (x + block.ls1(block.attn(block.norm1(x))))[:, :left]
                x = x + block.ls2(block.mlp(block.norm2(x)))
            return x, None

    if Path(model).is_dir():
        vit: Any = load_vision(model).encoder.vit
    else:
        torch.manual_seed(0)
        vit = timm.create_model(model, pretrained=False).eval()
    shape = {
        "side": vit.patch_embed.img_size[0],
        "depth": len(vit.blocks),
        "width": vit.embed_dim,
        "tokens": vit.pos_embed.shape[1],
        "patch": vit.patch_embed.patch_size[0],
    }
    constant = [constant_level(gamma, shape["depth"]) for gamma in gammas]
    levels = {"merging": constant, "dropping": constant, "two_merges": [in_two(level, shape) for level in constant]}
    for name, own in levels.items():
        (folder / name).mkdir()
        kind = Dropping if name == "dropping" else ElasticViT
        export_vision(kind(vit, (0.5,) * 3, (0.5,) * 3), tuple(own), (shape["side"],) * 2, 1, folder / name)
    return shape, levels


def in_two(level: TokenLevel, shape: Shape) -> TokenLevel:
    """The level that merges in its first two layers alone, equally much, at about as many FLOPs."""
    if level.gamma == 0:
        return level
    lists = (replace(level, merge=(r, r) + (0,) * (shape["depth"] - 2)) for r in range(1, shape["tokens"] // 2 + 1))
    return min(lists, key=lambda one: abs(flops_of(one, shape) - flops_of(level, shape)))


def flops_of(level: TokenLevel, shape: Shape) -> float:
    """FLOPs of one image."""
    return flops(level, shape["tokens"], shape["depth"], shape["width"], shape["patch"])


def speed_ups(
    encoders: Mapping[str, OnnxEncoder],
    levels: Levels,
    work: Mapping[str, Mapping[int, float]],
    inputs: Arrays,
    rounds: int,
) -> list[dict[str, Any]]:
    """For one batch: ms, speed-up over level 0, ratio of FLOPs, and the one over the other for each variant.

    `work` is in FLOPs, by variant and gamma.
    """
    taken: dict[tuple[str, int], list[float]] = {(name, one.gamma): [] for name in encoders for one in levels[name]}
    for turn in range(rounds + 2):
        for name, encoder in encoders.items():
            for level in levels[name]:
                before_s = time.perf_counter()
                encoder.features(inputs, level)
                if turn > 1:
                    taken[name, level.gamma].append((time.perf_counter() - before_s) * 1000.0)
    rows = []
    for gamma in (level.gamma for level in levels["merging"]):
        ratios = {name: work[name][0] / work[name][gamma] for name in encoders}
        speeds = {
            name: [before / after for before, after in zip(taken[name, 0], taken[name, gamma], strict=True)]
            for name in encoders
        }
        over = {name: round(statistics.median(speed) / ratios[name], 3) for name, speed in speeds.items()}
        row = {
            "gamma": gamma,
            "ms": round(statistics.median(taken["merging", gamma]), 2),
            "speed_up": round(statistics.median(speeds["merging"]), 3),
            "flop_ratio": round(ratios["merging"], 3),
            "speed_up_over_flop_ratio": over.pop("merging"),
            "quartiles": [round(float(np.percentile(speeds["merging"], q)) / ratios["merging"], 3) for q in (25, 75)],
        }
        rows.append(row | over)
    return rows


def resident_mb(folder: Path, gammas: Sequence[int], side: int, depth: int) -> float:
    """The memory of a process that has loaded the levels and run each."""
    listed = ",".join(map(str, gammas))
    command = [sys.executable, "-c", RESIDENT, str(folder), listed, str(side), str(depth)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return round(int(run.stdout) / 1e6, 1)


if __name__ == "__main__":
    main()
