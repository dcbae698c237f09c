"""Cut the two small data sets that ship with the repository.

``eurosat.npz``: a class-balanced, seeded choice of test images of EuroSAT (Helber et al., 2019, MIT), as whole JPEG
files: ``jpeg`` (concatenated bytes), ``off`` (offsets, one more than images), ``y`` (labels), ``label_names``.
``clinc150.json``: the in-scope validation queries of CLINC150 (Larson et al., 2019, CC BY 3.0), shuffled with a seed.

Run from the repository root:  python examples/training/make_demo_data.py --data ../shared/data
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np


def make_eurosat(source: Path, destination: Path, per_class: int, seed: int) -> int:
    """Write `per_class` test images of each class to `destination`; return how many were written."""
    with np.load(source, allow_pickle=False) as archive:
        stream, offsets, labels = archive["jpeg_test"], archive["off_test"], archive["y_test"]
        names = archive["label_names"]
    rng = np.random.RandomState(seed)
    chosen = [rng.choice(np.flatnonzero(labels == c), per_class, replace=False) for c in range(len(names))]
    order = rng.permutation(np.concatenate(chosen))
    files = [stream[offsets[i] : offsets[i + 1]] for i in order]
    new_offsets = np.concatenate([[0], np.cumsum([len(f) for f in files])]).astype(np.int64)
    destination.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        destination,
        jpeg=np.concatenate(files),
        off=new_offsets,
        y=labels[order].astype(np.int64),
        label_names=names,
    )
    return len(files)


def make_clinc150(source: Path, destination: Path, seed: int) -> int:
    """Write the in-scope validation queries to `destination`; return how many were written."""
    items: list[list[str]] = json.loads(source.read_text())["val"]
    order = np.random.RandomState(seed).permutation(len(items))
    document = {
        "source": "CLINC150 (Larson et al., EMNLP 2019), github.com/clinc/oos-eval, data/data_full.json, split 'val'",
        "license": "CC BY 3.0",
        "labels": sorted({intent for _, intent in items}),
        "items": [items[i] for i in order],
    }
    destination.parent.mkdir(parents=True, exist_ok=True)
    destination.write_text(json.dumps(document, ensure_ascii=False, indent=0) + "\n")
    return len(items)


def main() -> None:
    """Parse the command line and write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("examples/demo/data"))
    parser.add_argument("--per-class", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    images = make_eurosat(args.data / "vision/eurosat.npz", args.out / "eurosat.npz", args.per_class, args.seed)
    texts = make_clinc150(args.data / "text/clinc150/data_train_val.json", args.out / "clinc150.json", args.seed)
    print(f"{args.out}: {images} images, {texts} texts")


if __name__ == "__main__":
    main()
