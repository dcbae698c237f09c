"""Plan to model repository: every file rendered first, then written beside the old one and swapped in.

    <repository>/<model>/config.pbtxt
    <repository>/<model>/1/plan.json        the model's own part of the plan
    <repository>/<model>/1/<artifact>/…     graphs, weights, heads, tokenizers

Nothing in it names the machine that made it: it loads unchanged in NVIDIA's container.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from elastriton.core.errors import ConfigError
from elastriton.core.plan import PLAN_FILE, CascadePlan, ExecutorPlan, Plan
from elastriton.core.profile import Artifact, digest
from elastriton.core.records import dumps
from elastriton.generator.pbtxt import configs, render

CONFIG_FILE = "config.pbtxt"
VERSION_FOLDER = "1"
MARKER = ".elastriton"
_MARKED = "written by `elastriton generate`; replaced as a whole; its models:"
_STALE_S = 24 * 3600.0


def texts(plan: Plan) -> dict[str, str]:
    """Every text file of the repository, by its path in it: configurations and plans."""
    files = {}
    for name, config in configs(parts(plan)).items():
        files[f"{name}/{CONFIG_FILE}"] = render(config)
        files[f"{name}/{VERSION_FOLDER}/{PLAN_FILE}"] = dumps(parts(plan)[name])
    return files


def parts(plan: Plan) -> dict[str, Any]:
    """The part of the plan that each served model reads."""
    return {**plan.executors, **plan.schedulers, **plan.decoders, **plan.cascades, **plan.tasks}


def artifacts(part: Any) -> Iterator[Artifact]:
    """The artifacts that a served model needs in its version folder."""
    if isinstance(part, ExecutorPlan):
        yield part.artifact
        yield from part.heads.values()
    if isinstance(part, CascadePlan):
        if part.tokenizer is not None:
            yield part.tokenizer
        for small in part.small:
            yield small.artifact


def generate(plan: Plan, artifact_folder: Path, repository: Path) -> list[str]:
    """Write the repository of a plan, replacing an earlier one only when the new one is complete.

    Returns the names of its models. Raises ConfigError where an artifact is missing or not the one that was profiled,
    or where `repository` holds what elastriton did not write.
    """
    files = texts(plan)
    repository = repository.resolve()
    _check_owned(repository)
    repository.parent.mkdir(parents=True, exist_ok=True)
    _sweep(repository)
    fresh = Path(tempfile.mkdtemp(prefix=f".{repository.name}-", dir=repository.parent))
    try:
        fresh.chmod(0o755)
        (fresh / MARKER).write_text("\n".join([_MARKED, *sorted(parts(plan))]) + "\n", encoding="utf-8")
        for path, text in files.items():
            (fresh / path).parent.mkdir(parents=True, exist_ok=True)
            (fresh / path).write_text(text, encoding="utf-8")
        for name, part in parts(plan).items():
            for artifact in artifacts(part):
                _copy(artifact, artifact_folder, fresh / name / VERSION_FOLDER)
        _swap(fresh, repository)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return sorted(parts(plan))


def _check_owned(repository: Path) -> None:
    """Raises ConfigError where a folder holds more than the models that its marker names: all of it is replaced."""
    if not repository.exists():
        return
    there = {path.name for path in repository.iterdir()}
    foreign = sorted(there - _written(repository))
    if foreign:
        raise ConfigError(
            f"{repository} holds {', '.join(foreign)}, which elastriton did not write; move it or generate elsewhere"
        )


def _written(repository: Path) -> set[str]:
    """What `generate` has put into a folder. Markers had no names once: there, what has a plan was written."""
    if not (repository / MARKER).is_file():
        return set()
    _, *names = (repository / MARKER).read_text(encoding="utf-8").splitlines() or [""]
    return {MARKER, *(names or (path.parents[1].name for path in repository.glob(f"*/{VERSION_FOLDER}/{PLAN_FILE}")))}


def _copy(artifact: Artifact, source: Path, target: Path) -> None:
    folder = source / artifact.path
    if not folder.is_dir():
        raise ConfigError(f"artifact {folder} is missing; run `elastriton profile` again")
    if digest(folder) != artifact.sha256:
        raise ConfigError(f"artifact {folder} is not the one that was profiled; run `elastriton profile` again")
    if not (target / artifact.path).exists():
        shutil.copytree(folder, target / artifact.path)


def _swap(fresh: Path, repository: Path) -> None:
    if not repository.exists():
        fresh.rename(repository)
        return
    old = fresh.with_name(fresh.name + "-old")
    try:
        repository.rename(old)
        fresh.rename(repository)
    except BaseException:  # Ctrl-C, too
        if not repository.exists():
            old.rename(repository)
        raise
    shutil.rmtree(old)


def _sweep(repository: Path) -> None:
    """Remove what earlier runs left beside a repository that stands, having been killed.

    A run in progress may be at work there: what was renamed or filled within a day is left alone.
    """
    ours = re.compile(rf"\.{re.escape(repository.name)}-[a-z0-9_]{{8}}(-old)?")
    for folder in repository.parent.iterdir() if repository.exists() else ():
        left = ours.fullmatch(folder.name) and (folder / MARKER).is_file()
        if left and time.time() - folder.stat().st_ctime > _STALE_S:
            shutil.rmtree(folder, ignore_errors=True)
