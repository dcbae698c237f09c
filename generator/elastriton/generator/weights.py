"""The file of weights that all graphs of an encoder share, as they are and as the CPU multiplies by them.

ONNX Runtime packs a matrix before it multiplies by it: at every run, or once per graph that is opened, which takes as
many times the memory as there are levels. Here it writes what it packs into the shared file, and every graph that is
opened later finds it there, mapped. It still packs once while it opens, and takes what is stored only where both have
the same digest: on a CPU that packs in another way the graphs are as right and as fast, and only share less memory.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import onnx
import onnxruntime

ALIGNMENT = 4096
EXTERNAL_BYTES = 1024
PACKED = "prepacked_"  # ONNX Runtime's entry for a packed matrix: "digest|offset;length;checksum|…"


class SharedWeights:
    """The weights file of a folder of graphs; each distinct run of bytes is stored once, found by its digest."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offsets: dict[str, int] = {}
        path.write_bytes(b"")

    def store(self, data: bytes) -> int:
        """The offset of `data` in the file, to which it is added where it is new."""
        key = hashlib.sha256(data).hexdigest()
        if key not in self._offsets:
            with self.path.open("ab") as file:
                file.write(b"\0" * (-file.tell() % ALIGNMENT))
                self._offsets[key] = file.tell()
                file.write(data)
        return self._offsets[key]

    def save(self, model: onnx.ModelProto, path: Path) -> None:
        """Write `model` to `path`, beside the weights file, which takes its large tensors, and these packed as well."""
        for tensor in model.graph.initializer:
            data = onnx.numpy_helper.to_array(tensor).tobytes()
            if len(data) >= EXTERNAL_BYTES:
                self._refer(tensor, data)
        onnx.save(model, path)
        self._pack(model, path)
        onnx.save(model, path)

    def _refer(self, tensor: onnx.TensorProto, data: bytes) -> None:
        for field in ("raw_data", "float_data", "int32_data", "int64_data", "external_data"):
            tensor.ClearField(field)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for name, value in (("location", self.path.name), ("offset", self.store(data)), ("length", len(data))):
            tensor.external_data.add(key=name, value=str(value))

    def _pack(self, model: onnx.ModelProto, path: Path) -> None:
        """Let ONNX Runtime open the graph at `path` and write it packed; refer `model` to copies of what it packed."""
        tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            graph, packed = Path(scratch) / "packed.onnx", Path(scratch) / "packed.bin"
            _write_packed(path, graph, packed)
            written = onnx.load(graph, load_external_data=False).graph.initializer
            entries = [(tensors.get(tensor.name), entry) for tensor in written for entry in tensor.external_data]
            with packed.open("rb") as file:
                for tensor, entry in entries:
                    if tensor is not None and entry.key.startswith(PACKED):
                        digest, *blocks = entry.value.split("|")
                        moved = [self._move(block, file.fileno()) for block in blocks]
                        tensor.external_data.add(key=entry.key, value="|".join([digest, *moved]))

    def _move(self, block: str, file: int) -> str:
        """An "offset;length;checksum" of the open `file` as one of this file."""
        offset, length, checksum = block.split(";")
        return f"{self.store(os.pread(file, int(length), int(offset)))};{length};{checksum}"


def _write_packed(path: Path, graph: Path, packed: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # a warning that such a graph is for this machine alone: only the weights are kept
    options.optimized_model_filepath = str(graph)
    for key, value in (
        ("optimized_model_external_initializers_file_name", packed.name),
        ("optimized_model_external_initializers_min_size_in_bytes", str(EXTERNAL_BYTES)),
        ("save_external_prepacked_constant_initializers", "1"),
    ):
        options.add_session_config_entry(f"session.{key}", value)
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
