"""Assemble a backend directory: Triton's own backends beside ours.

A Python-based backend is a folder with a `model.py`, but it needs Triton's `python/` next to it, in the same directory.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from elastriton.core.errors import ConfigError
from elastriton.generator.serve.embedded import STUB, TritonServer

_PACKAGED = Path(__file__).parents[1] / "backends"  # in the wheel
_CHECKOUT = Path(__file__).parents[4] / "backends"  # in the repository


def find_backends(directory: Path | None = None) -> Path:
    """The folder with our backends: `directory` where given, else that of the wheel, else that of the checkout."""
    candidates = [directory] if directory is not None else [_PACKAGED, _CHECKOUT]
    for candidate in candidates:
        if names(candidate):
            return candidate.resolve()
    looked = " and ".join(str(candidate) for candidate in candidates)
    raise ConfigError(f"no backends found: no folder with a model.py in {looked}\nhelp: --backend-directory DIRECTORY")


def names(directory: Path) -> list[str]:
    """The Python-based backends in `directory`."""
    return sorted(found.parent.name for found in directory.glob("*/model.py"))


def assemble(server: TritonServer, ours: Path, into: Path) -> Path:
    """A directory with Triton's backends and ours; `into` is filled only where no such directory exists yet.

    It exists in an image that ours were copied into (`/opt/tritonserver/backends`), or where `ours` is itself complete.
    """
    if (ours / "python/libtriton_python.so").is_file():
        return ours
    if all((server.backends / name / "model.py").is_file() for name in names(ours)) and not server.from_wheel:
        return server.backends
    into.mkdir(parents=True)
    for backend in sorted(server.backends.iterdir()):
        if backend.name != "python" and backend.is_dir():
            (into / backend.name).symlink_to(backend)
    python = into / "python"
    python.mkdir()
    for file in sorted((server.backends / "python").iterdir()):
        if file.is_file() and file.name != STUB:
            shutil.copyfile(file, python / file.name)  # Triton refuses a library that a link leads to
    shutil.copyfile(server.stub, python / STUB)
    (python / STUB).chmod(0o755)
    for name in names(ours):
        (into / name).unlink(missing_ok=True)
        (into / name).symlink_to(ours / name)
    return into
