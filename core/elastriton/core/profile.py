"""Profile: what `elastriton profile` measured, on which hardware, with which versions and seeds. Versioned JSON.

    {"version": 1, "encoders": {"vit": {levels, latency, artifact …}}, "tasks": {"eurosat": {accuracy …}}, …}

Artifacts (exported graphs, weights, heads, tokenizers) lie in folders beside the profile; the profile names each by a
relative path and a digest, so that a plan can never be rendered with other weights than those that were measured.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from elastriton.core.errors import ConfigError
from elastriton.core.latency import Cell
from elastriton.core.levels import TokenLevel
from elastriton.core.pruning import Pruning
from elastriton.core.records import load
from elastriton.core.statistics import wilson_interval

VERSION = 1
PROFILE_FILE = "profile.json"

Precision = Literal["fp32", "fp16", "bf16"]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Accuracy at a level: `correct` of `n` held-out samples, with Wilson's 95 % interval."""

    gamma: int
    correct: int
    n: int
    accuracy: float
    low: float
    high: float

    @classmethod
    def of(cls, gamma: int, correct: int, n: int) -> Accuracy:
        """The record of `correct` right answers out of `n`."""
        low, high = wilson_interval(correct, n)
        return cls(gamma, correct, n, correct / n, low, high)


@dataclass(frozen=True, slots=True)
class Artifact:
    """A folder of files that belong together, relative to the profile, with one digest over all of them.

    Raises ConfigError where the path points elsewhere: it is read from files, and written to.
    """

    path: str
    sha256: str

    def __post_init__(self) -> None:
        path = PurePosixPath(self.path)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise ConfigError(f"artifact {self.path!r} points out of its folder; its path must be relative, without ..")


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """How an image becomes pixels: resize the shorter side, crop the centre, uint8 [height, width, 3]."""

    height: int
    width: int
    resize: int
    interpolation: str


@dataclass(frozen=True, slots=True)
class TextSpec:
    """How a text becomes token ids: at most `max_length` of them.

    The model has rows for `vocabulary` token ids and `segments` segment ids; None where any may come.
    """

    max_length: int
    vocabulary: int | None = None
    segments: int | None = None


@dataclass(frozen=True, slots=True)
class EncoderProfile:
    """One resident encoder: its levels, their measured latency, and the artifact that holds its graphs.

    `tokens` are those of an image, or of the longest text.
    """

    kind: Literal["vision", "text"]
    runtime: Literal["onnxruntime", "torch"]
    model: str
    tokens: int
    depth: int
    width: int
    artifact: Artifact
    levels: tuple[TokenLevel, ...]
    latency: tuple[Cell, ...]
    image: ImageSpec | None = None
    text: TextSpec | None = None
    tokenizer: Artifact | None = None
    instances: int = 1
    threads: int = 0
    precision: Precision = "fp32"


@dataclass(frozen=True, slots=True)
class SmallProfile:
    """A small model of a task's cascade.

    `aurc` is the area under its risk-coverage curve behind the fit part: what its confidence is worth. Texts that are
    too long for it are left out there, and count as wrong in `accuracy`.
    """

    artifact: Artifact
    model: str
    latency: tuple[Cell, ...]
    temperature: float
    power: float
    accuracy: Accuracy | None
    aurc: float
    text: TextSpec | None = None
    image: ImageSpec | None = None


@dataclass(frozen=True, slots=True)
class CascadeProfile:
    """The small models of a task, and what every model says of every sample: `cached` (generator/cached.py)."""

    small: tuple[SmallProfile, ...]
    rules: tuple[Pruning, ...]
    cached: Artifact


@dataclass(frozen=True, slots=True)
class TaskProfile:
    """One task on an encoder: its head's artifact, its labels, accuracy by level, temperature, and its cascade.

    `n_fit` samples fitted the temperatures; accuracies come from the others. Decoding an image of it takes
    `decode_ms` of one core, on the mean.
    """

    encoder: str
    objective: Literal["classification", "regression"]
    labels: tuple[str, ...]
    head: Artifact
    inputs: int
    temperature: float
    n_fit: int
    accuracy: tuple[Accuracy, ...] = ()
    cascade: CascadeProfile | None = None
    decode_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and with what a profile was measured."""

    cpu: str
    cores: int
    memory_gib: float
    gpu: str | None
    python: str
    packages: dict[str, str]


@dataclass(frozen=True, slots=True)
class Profile:
    """Everything measured offline: the input of `elastriton plan`."""

    version: int
    created: str
    seed: int
    machine: Machine
    encoders: dict[str, EncoderProfile]
    tasks: dict[str, TaskProfile]
    configured: dict[str, str]
    """The digest of what the configuration said of each encoder and task (generator/goals.py)."""


def load_profile(path: Path) -> Profile:
    """Read a profile. Raises ConfigError where it is of another version or malformed."""
    profile = load(Profile, path, made_by="profile")
    if profile.version != VERSION:
        raise ConfigError(f"{path} has version {profile.version}, this release reads {VERSION}; profile again")
    return profile


def digest(folder: Path) -> str:
    """The SHA-256 over the names and contents of all files below `folder`."""
    total = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        total.update(file.relative_to(folder).as_posix().encode() + b"\0")
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()
