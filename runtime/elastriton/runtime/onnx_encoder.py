"""Encoders in ONNX Runtime: one graph per level over one shared file of weights."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from elastriton.core.levels import TokenLevel
from elastriton.runtime.executor import Arrays, Floats
from elastriton.runtime.files import WEIGHTS_FILE, graph_file

LONGEST = 512  # tokens, of a text that any of these encoders reads
SHARED_WORK = 5e9  # weights file in bytes x tokens of a sample: below, threads that share operations gain nothing


class OnnxEncoder:
    """The exported graphs of an encoder (generator/export.py), on the CPU or on whatever provider is installed.

    On a CPU, where a sample is little work (SHARED_WORK), a batch is cut into as many parts as there are threads, and
    each runs on a thread of its own: threads that share every small operation wait for each other more than they
    compute. Where a sample is much work, threads do share the operations.
    """

    def __init__(self, folder: Path, gammas: Sequence[int], threads: int = 0) -> None:
        """Open the graphs of `gammas`; `threads` 0 means one per core.

        On a CPU all levels share one copy of the weights, packed ones too (generator/weights.py), and one arena. With
        CUDA each level has its weights on the device: there the torch runtime is the one that shares.
        """
        import onnxruntime

        available = onnxruntime.get_available_providers()
        cuda = "CUDAExecutionProvider" in available
        providers = ["CUDAExecutionProvider", "CPUExecutionProvider"] if cuda else ["CPUExecutionProvider"]
        self.threads = 1 if cuda else threads or _cores()
        self._weights_bytes = (folder / WEIGHTS_FILE).stat().st_size

        def opened(gamma: int, threads: int) -> Any:
            options = session_options(threads, one_arena=not cuda)
            return onnxruntime.InferenceSession(str(folder / graph_file(gamma)), options, providers=providers)

        first = opened(gammas[0], 1)
        shape = first.get_inputs()[0].shape
        much = self._much_work([size if isinstance(size, int) else LONGEST for size in shape])
        all_alike = all(isinstance(size, int) for size in shape[1:])  # images; of texts, short ones are little work
        self._single, self._shared = {gammas[0]: first}, {}
        if self.threads > 1 and much:
            self._shared = {gamma: opened(gamma, self.threads) for gamma in gammas}
        if not (self._shared and all_alike):
            self._single |= {gamma: opened(gamma, 1) for gamma in gammas[1:]}
        self._graphs = self._shared or self._single
        self._names = {gamma: [entry.name for entry in graph.get_inputs()] for gamma, graph in self._graphs.items()}
        return_freed_memory()
        self._pool = ThreadPoolExecutor(max(1, self.threads - 1), "elastriton-part")

    def features(self, inputs: Arrays, level: TokenLevel) -> Floats:
        """Features [batch, width] of one batch."""
        return self.outputs(inputs, level, ["features"])[0]

    def outputs(self, inputs: Arrays, level: TokenLevel, names: Sequence[str]) -> list[Floats]:
        """The outputs `names` of one batch; a graph that has no use for an input is not given it."""
        feed = {name: inputs[name] for name in self._names[level.gamma]}
        shape = next(iter(feed.values())).shape
        if self._shared and self._much_work(shape):
            outputs = self._shared[level.gamma].run(names, feed)
        else:
            outputs = self._in_parts(self._single[level.gamma], names, feed, min(shape[0], self.threads))
        return [np.asarray(output, dtype=np.float32) for output in outputs]

    def _in_parts(self, session: Any, names: Sequence[str], feed: Arrays, count: int) -> list[Any]:
        """The outputs of `session` for the batch in `count` parts whose sizes differ by at most one, side by side."""
        split = {name: np.array_split(array, count) for name, array in feed.items()}
        first, *others = ({name: arrays[number] for name, arrays in split.items()} for number in range(count))
        running = [self._pool.submit(session.run, names, part) for part in others]
        done = [session.run(names, first), *(part.result() for part in running)]
        return done[0] if count == 1 else [np.concatenate(parts) for parts in zip(*done, strict=True)]

    def _much_work(self, shape: Sequence[int]) -> bool:
        return self._weights_bytes * _tokens(shape) > SHARED_WORK

    def has(self, output: str) -> bool:
        """Whether all graphs have an output of this name."""
        return all(output in (entry.name for entry in graph.get_outputs()) for graph in self._graphs.values())


def return_freed_memory() -> None:
    """Give back what glibc keeps of freed memory: a graph that opens packs each matrix, if only to compare digests.

    For ViT-B/16 that is 20 MB per graph. Another C library has its own ways.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _tokens(shape: Sequence[int]) -> int:
    """About how many tokens a sample of inputs [batch, tokens] or pixels [batch, height, width, 3] has."""
    return shape[1] if len(shape) == 2 else shape[1] * shape[2] // 256


def _cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def session_options(threads: int, *, one_arena: bool) -> Any:
    """The options of a session; `one_arena`, for a CPU alone: it shares its memory for tensors with other sessions."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # several stubs share the cores
    if one_arena:
        _share_arena()
        options.add_session_config_entry("session.use_env_allocators", "1")
    return options


@cache
def _share_arena() -> None:
    """Register the process's one CPU arena, for all sessions that ask for it."""
    import onnxruntime

    kind, default = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, onnxruntime.OrtMemType.DEFAULT
    onnxruntime.create_and_register_allocator(onnxruntime.OrtMemoryInfo("Cpu", kind, 0, default), None)
