"""The measurements of gpu.py: times of all levels and ways to run them in turns, and memory on the device."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from gpu_models import Shape, library
from spread import ratios, spread

from elastriton.core.levels import TokenLevel
from elastriton.runtime.cuda_graphs import CudaGraphs
from elastriton.runtime.torch_encoder import TorchEncoder

WARM_UPS = 3
Key = tuple[str, int]
"""How it runs, and at which level. `graph` replays a CUDA graph, `eager` launches its kernels one by one, `library` is
timm or Hugging Face, and `library_graph` a graph of timm's forward (Hugging Face's waits for the device); their inputs
lie on the device. `whole` is what the executor calls: host to host, padded."""
PEERS = ("library", "library_graph")


def measure(encoder: TorchEncoder, shape: Shape, batch: int, tokens: int, rounds: int) -> list[dict[str, Any]]:
    """One row for each way and level, with ms, samples per second, and ratios of times that were taken in one round."""
    taken_ms = take_turns(ways(encoder, shape, batch, tokens), rounds)
    plain = next(level for level in shape.levels if level.gamma == 0)
    rows = []
    for level in shape.levels:
        flop_ratio = shape.flops(plain, tokens) / shape.flops(level, tokens)
        for way in dict.fromkeys(way for way, gamma in taken_ms if gamma == level.gamma):
            own_ms = taken_ms[way, level.gamma]
            faster = ratios(taken_ms[way, 0], own_ms)
            row = {"way": way, "gamma": level.gamma, "batch": batch, "tokens": tokens, "ms": spread(own_ms)}
            row["per_s"] = float(f"{1000.0 * batch / statistics.median(own_ms):.4g}")
            row["speed_up"] = spread(faster)
            row["flop_ratio"] = round(flop_ratio, 3)
            row["speed_up_over_flop_ratio"] = spread([ratio / flop_ratio for ratio in faster])
            row |= {
                f"over_{peer}": spread(ratios(taken_ms[peer, 0], own_ms)) for peer in PEERS if (peer, 0) in taken_ms
            }
            rows.append(row)
    return rows


def ways(encoder: TorchEncoder, shape: Shape, batch: int, tokens: int) -> dict[Key, Callable[[], Any]]:
    """What is timed, ready to be called; each call leaves its work on the device."""
    calls: dict[Key, Callable[[], Any]] = {}
    peer = torch.inference_mode()(library(encoder))
    for level in shape.levels:
        inputs = shape.inputs(batch, tokens, level)
        tensors = encoder.tensors(inputs)
        calls["eager", level.gamma] = partial(encoder.eager, tensors, level)
        calls["whole", level.gamma] = partial(encoder.features, inputs, level)
        if encoder.graphs is not None and encoder.buckets is not None:
            calls["graph", level.gamma] = encoder.graphs.loaded(encoder.buckets.pad(inputs), level)
        if level.gamma == 0:
            calls["library", 0] = partial(peer, **tensors)
            if encoder.graphs is not None and shape.kind == "vision":
                weight = next(encoder.encoder.parameters())
                graphs = CudaGraphs(partial(_plain, peer), str(weight.device), weight.dtype)
                calls["library_graph", 0] = graphs.loaded(inputs, level)
    return calls


def _plain(peer: Callable[..., torch.Tensor], *, level: TokenLevel, **tensors: torch.Tensor) -> torch.Tensor:
    """What libraries know of levels: nothing."""
    if level.gamma != 0:
        raise ValueError(f"level {level.gamma} is none of a library's; give it level 0")
    return peer(**tensors)


def take_turns(calls: Mapping[Key, Callable[[], Any]], rounds: int) -> dict[Key, list[float]]:
    """Milliseconds of every call in every round, from an idle device to an idle device."""
    taken_ms: dict[Key, list[float]] = {key: [] for key in calls}
    for turn in range(WARM_UPS + rounds):
        for key, call in calls.items():
            _wait()
            before_s = time.perf_counter()
            call()
            _wait()
            if turn >= WARM_UPS:
                taken_ms[key].append((time.perf_counter() - before_s) * 1000.0)
    return taken_ms


def memory_mb(make: Callable[[], TorchEncoder], shape: Shape) -> dict[str, Any]:
    """Device memory in MB: weights, what each level needs to run its largest batch eagerly, and what graphs add.

    `graphs_one_level` and `graphs_all_levels` are the graphs of every bucket of level 0 and of all levels, in torch's
    memory; `device_…` is all that went from the device's free memory, weights and what its driver keeps included.
    """
    largest = max(shape.tokens)
    found: dict[str, Any] = {}
    plain = tuple(level for level in shape.levels if level.gamma == 0)
    for name, levels in (("one_level", plain), ("all_levels", shape.levels)):
        before, held, free = _reserved(), torch.cuda.memory_allocated(), torch.cuda.mem_get_info()[0]
        encoder = make()
        if encoder.buckets is None:
            raise ValueError("memory is measured with buckets; give the encoder some")
        found["weights"] = _mb(torch.cuda.memory_allocated() - held)
        if name == "all_levels":
            found["eager_peak"] = {level.gamma: _peak(encoder, shape, level, largest) for level in levels}
            _reserved()
        for batch, length in encoder.buckets.shapes():
            for level in levels:
                encoder.features(shape.inputs(batch, length or largest, level), level)
        found[f"graphs_{name}"] = round(_mb(_reserved() - before) - found["weights"], 1)
        found[f"device_{name}"] = _mb(free - torch.cuda.mem_get_info()[0])
        del encoder
    return found


def _peak(encoder: TorchEncoder, shape: Shape, level: Any, tokens: int) -> float:
    assert encoder.buckets is not None
    tensors = encoder.tensors(shape.inputs(encoder.buckets.batches[-1], tokens, level))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    encoder.eager(tensors, level)
    return _mb(torch.cuda.max_memory_allocated() - before)


def _reserved() -> int:
    gc.collect()
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved()


def _mb(count: int) -> float:
    return round(count / 1e6, 1)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
