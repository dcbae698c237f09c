"""Whether a server really answers: one tiny inference per task, as Triton stays ready when a stub has died.

    python -m elastriton.generator.serve.health --url http://127.0.0.1:8000 [TASK …]

Exit code 0 where every task answered. A request that the scheduler rejected counts: it works, and has too much to do.
The standard library alone, so that it starts fast and runs wherever Python does.
"""

from __future__ import annotations

import argparse
import json
import math
import struct
import sys
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from elastriton.core.errors import Rejected, parse
from elastriton.generator.serve.rest import NoAnswer, Rest, public_ensembles

_WIDTHS = {"BOOL": 1, "UINT8": 1, "INT8": 1, "UINT16": 2, "INT16": 2, "FP16": 2, "BF16": 2, "UINT32": 4, "INT32": 4}
_WIDTHS |= {"FP32": 4, "UINT64": 8, "INT64": 8, "FP64": 8}
_TEXT = b"ping"


def check(url: str, tasks: Sequence[str] = (), timeout_s: float = 5.0) -> dict[str, str]:
    """What is wrong with each of `tasks`, or of all public ensembles; "" where nothing is. Raises NoAnswer."""
    rest = Rest(url, timeout_s)
    if not tasks:
        models = sorted({model["name"] for model in rest.index() if model.get("state") == "READY"})
        tasks = public_ensembles({name: rest.config(name) for name in models})
    return {task: _check_task(rest, task) for task in tasks}


def _check_task(rest: Rest, task: str) -> str:
    try:
        headers, body = tiny_request(rest.config(task))
        status, answer = rest.call(f"models/{task}/infer", body, headers)
    except NoAnswer as error:
        return str(error)
    if status == 200:
        return ""
    text = answer[:500].decode(errors="replace")
    return "" if isinstance(parse(text), Rejected) else f"HTTP {status}: {text}"


def tiny_request(config: Mapping[str, Any]) -> tuple[dict[str, str], bytes]:
    """The headers and the body of the smallest request that the model of `config` takes, in Triton's binary form."""
    batch = [1] if config.get("max_batch_size", 0) > 0 else []
    header, blobs = [], []
    for entry in config["input"]:
        if entry.get("optional"):
            continue
        shape, blob = _tiny_input(entry)
        datatype = entry["data_type"].removeprefix("TYPE_").replace("STRING", "BYTES")
        parameters = {"binary_data_size": len(blob)}
        header.append({"name": entry["name"], "datatype": datatype, "shape": batch + shape, "parameters": parameters})
        blobs.append(blob)
    head = json.dumps({"inputs": header}).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return headers, head + b"".join(blobs)


def _tiny_input(entry: Mapping[str, Any]) -> tuple[list[int], bytes]:
    datatype = entry["data_type"].removeprefix("TYPE_")
    dims = [int(size) for size in entry["dims"]]
    image = tiny_png() if entry["name"] == "IMAGE" else b""
    if datatype == "UINT8" and image and dims == [-1]:
        return [len(image)], image
    shape = [max(1, size) for size in dims]
    if datatype == "STRING":
        element = image or _TEXT
        return shape, math.prod(shape) * (struct.pack("<I", len(element)) + element)
    return shape, bytes(math.prod(shape) * _WIDTHS[datatype])


def tiny_png(size: int = 8) -> bytes:
    """A grey RGB image of `size` x `size` pixels."""
    rows = (b"\0" + b"\x80\x80\x80" * size) * size
    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m elastriton.generator.serve.health", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="default: %(default)s")
    parser.add_argument("--timeout-s", type=float, default=5.0, help="per request; default: %(default)s")
    parser.add_argument("tasks", nargs="*", metavar="TASK", help="default: every public ensemble")
    options = parser.parse_args(arguments)
    try:
        found = check(options.url.rstrip("/"), options.tasks, options.timeout_s)
    except NoAnswer as error:
        print(error, file=sys.stderr)
        return 1
    for task, problem in found.items():
        print(f"{task}: {problem or 'ok'}", file=sys.stderr if problem else sys.stdout)
    if not found:
        print(f"{options.url} serves no task", file=sys.stderr)
    return 0 if found and not any(found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
