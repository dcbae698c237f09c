"""The traces of the benches: synthetic ones, and the Azure LLM inference traces of 2023 (CC BY 4.0) where at hand."""

from __future__ import annotations

from pathlib import Path

from elastriton.generator.loads import SYNTHETIC

FOLDER = Path(__file__).parents[2] / "shared/data/traces"
RECORDED = {"azure-code": FOLDER / "azure_llm_2023_code.csv", "azure-conv": FOLDER / "azure_llm_2023_conv.csv"}


def available() -> tuple[dict[str, str], list[str]]:
    """The traces that can be had here as generator/loads.py takes them, and notes on those that cannot."""
    found = {name: name for name in SYNTHETIC} | {name: str(path) for name, path in RECORDED.items() if path.is_file()}
    return found, [
        f"trace {name} is skipped: {path} is missing" for name, path in RECORDED.items() if name not in found
    ]
