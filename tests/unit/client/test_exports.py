"""The public names, and what importing them costs."""

from __future__ import annotations

import subprocess
import sys

import elastriton.client
from elastriton.client import errors

HEAVY = {"torch", "onnxruntime", "transformers", "PIL", "pandas", "grpc", "aiohttp"}


def test_all_is_sorted_and_complete() -> None:
    public = {
        name
        for name, value in vars(elastriton.client).items()
        if not name.startswith("_") and type(value).__name__ != "module"
    }
    assert elastriton.client.__all__ == sorted(public)


def test_every_error_is_exported() -> None:
    kinds = {name for name, value in vars(errors).items() if name.endswith("Error") and isinstance(value, type)}
    assert kinds <= set(elastriton.client.__all__)


def test_importing_the_client_loads_nothing_heavy() -> None:
    program = "import sys, elastriton.client, elastriton.client.testing; print(*{n.split('.')[0] for n in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    assert "numpy" in loaded
    assert not HEAVY & set(loaded)
