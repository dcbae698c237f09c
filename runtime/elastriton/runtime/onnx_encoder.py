"""Encoders in ONNX Runtime: one session per level over one shared file of weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from elastriton.core.levels import TokenLevel
from elastriton.runtime.executor import Arrays, Floats
from elastriton.runtime.graphs import graph_file


class OnnxEncoder:
    """The exported graphs of an encoder (generator/export.py), on the CPU or on whatever provider is installed."""

    def __init__(self, folder: Path, gammas: Sequence[int], threads: int = 0) -> None:
        """Open the graphs of `gammas`; `threads` 0 means one per core.

        On a CPU several levels share one copy of the weights, the mapped file, and one arena. ONNX Runtime would rather
        pack them for every graph anew: about 5 % faster at batches from 8, but as many times the memory as there are
        levels. With CUDA each level has its weights on the device: there the torch runtime is the one that shares.
        """
        import onnxruntime

        available = onnxruntime.get_available_providers()
        providers = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]
        options = session_options(len(gammas), threads, cuda="CUDAExecutionProvider" in providers)
        self._sessions: dict[int, Any] = {
            gamma: onnxruntime.InferenceSession(str(folder / graph_file(gamma)), options, providers=providers)
            for gamma in gammas
        }
        self._names = {
            gamma: [entry.name for entry in session.get_inputs()] for gamma, session in self._sessions.items()
        }

    def features(self, inputs: Arrays, level: TokenLevel) -> Floats:
        """Features [batch, width] of one batch."""
        return self.outputs(inputs, level, ["features"])[0]

    def outputs(self, inputs: Arrays, level: TokenLevel, names: Sequence[str]) -> list[Floats]:
        """The outputs `names` of one batch; a graph that has no use for an input is not given it."""
        feed = {name: inputs[name] for name in self._names[level.gamma]}
        return [np.asarray(output, dtype=np.float32) for output in self._sessions[level.gamma].run(names, feed)]

    def has(self, output: str) -> bool:
        """Whether all graphs have an output of this name."""
        return all(output in (entry.name for entry in graph.get_outputs()) for graph in self._sessions.values())


def session_options(levels: int, threads: int, *, cuda: bool) -> Any:
    """The options of an encoder's sessions; those that let several levels share memory are for a CPU alone."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # several stubs share the cores
    if levels > 1 and not cuda:
        _share_arena()
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.add_session_config_entry("session.use_env_allocators", "1")
    return options


@cache
def _share_arena() -> None:
    """Register the process's one CPU arena, for all sessions that ask for it."""
    import onnxruntime

    kind, default = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, onnxruntime.OrtMemType.DEFAULT
    onnxruntime.create_and_register_allocator(onnxruntime.OrtMemoryInfo("Cpu", kind, 0, default), None)
