"""CUDA graphs: one launch for a whole forward, where a small batch would else spend its time on launching kernels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from elastriton.core.levels import TokenLevel
from elastriton.runtime.executor import Arrays

WARM_UPS = 3
"""Runs before a capture: in the first ones libraries choose kernels and allocate, which no graph may hold."""


class CudaGraphs:
    """One graph per level and shapes of the inputs, captured when first asked for; only ever used on CUDA.

    All graphs share one memory pool, and those whose inputs have a shape in common share the input: they never run at
    the same time, and the caller copies a result before the next run overwrites it. Not for several threads.
    """

    def __init__(self, encoder: Callable[..., Tensor], device: str, dtype: torch.dtype) -> None:
        """`encoder(**inputs, level=…)` must not wait for the device; floating-point inputs are given in `dtype`."""
        self._encoder = encoder
        self._device = torch.device(device)
        self._dtype = dtype
        self._pool = torch.cuda.graph_pool_handle()
        self._aside = torch.cuda.Stream(self._device)  # one for all: libraries keep tens of MB for each that they see
        self._inputs: dict[tuple[str, tuple[int, ...]], Tensor] = {}
        self._graphs: dict[tuple[TokenLevel, tuple[tuple[int, ...], ...]], tuple[torch.cuda.CUDAGraph, Tensor]] = {}

    def run(self, inputs: Arrays, level: TokenLevel) -> Tensor:
        """What the encoder gives for `inputs` at `level`; valid until the next run."""
        return self.loaded(inputs, level)()

    def loaded(self, inputs: Arrays, level: TokenLevel) -> Callable[[], Tensor]:
        """Copy `inputs` to the device, and return the replay of their graph."""
        with torch.inference_mode(), torch.cuda.device(self._device):
            tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
            buffers = {name: self._buffer(name, tensor) for name, tensor in tensors.items()}
            for name, tensor in tensors.items():
                buffers[name].copy_(tensor)
            key = (level, tuple(tuple(buffer.shape) for buffer in buffers.values()))
            if key not in self._graphs:
                self._graphs[key] = self._capture(buffers, level)
            graph, output = self._graphs[key]

        def replay() -> Tensor:
            with torch.cuda.device(self._device):
                graph.replay()
            return output

        return replay

    def _buffer(self, name: str, like: Tensor) -> Tensor:
        key = (name, tuple(like.shape))
        if key not in self._inputs:
            dtype = self._dtype if like.is_floating_point() else like.dtype
            self._inputs[key] = torch.empty(like.shape, dtype=dtype, device=self._device)
        return self._inputs[key]

    def _capture(self, buffers: dict[str, Tensor], level: TokenLevel) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        self._aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._aside):
            for _ in range(WARM_UPS):
                self._encoder(**buffers, level=level)
        torch.cuda.current_stream().wait_stream(self._aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._aside):
            output = self._encoder(**buffers, level=level)
        return graph, output
