"""Models of a few lines for the tests of serving: a deferred scheduler that calls an executor, below an ensemble."""

from __future__ import annotations

import json
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

ROOT = Path(__file__).parents[2]
LIMIT_S = 120.0  # liveness only
SERVE = [sys.executable, "-m", "elastriton.generator.cli", "serve"]

SCHEDULER = """
import threading
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        pass

    def execute(self, requests):
        for request in requests:
            data = pb_utils.get_input_tensor_by_name(request, "DATA").as_numpy()
            threading.Thread(target=self.answer, args=(request.get_response_sender(), data)).start()
        return None

    def answer(self, sender, data):
        inputs = [pb_utils.Tensor("DATA", data)]
        def call():
            names = ["ANSWER"]
            return pb_utils.InferenceRequest(model_name="executor", requested_output_names=names, inputs=inputs).exec()
        response = call()
        if not response.has_error():  # the second call comes a second later
            response = call()
        if response.has_error():
            answer = pb_utils.InferenceResponse(error=pb_utils.TritonError(response.error().message()))
        else:
            answer = pb_utils.InferenceResponse([pb_utils.Tensor("ANSWER", response.output_tensors()[0].as_numpy())])
        sender.send(answer, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
EXECUTOR = """
import os
import pathlib
import time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.answers = pathlib.Path(args["model_repository"]) / args["model_version"] / "started"

    def execute(self, requests):
        responses = []
        for request in requests:
            data = pb_utils.get_input_tensor_by_name(request, "DATA").as_numpy()
            if data[0, 0] < 0:
                os._exit(1)
            if data[0, 0] > 0:
                self.answers.touch()
            time.sleep(float(data[0, 0]))
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("ANSWER", data + 1)]))
        return responses
"""
MODEL = """
backend: "{backend}"
max_batch_size: 4
input {{ name: "DATA" data_type: TYPE_FP32 dims: [ 1 ] }}
output {{ name: "ANSWER" data_type: TYPE_FP32 dims: [ 1 ] }}
instance_group {{ kind: KIND_CPU count: 1 }}
"""
ENSEMBLE = """
platform: "ensemble"
max_batch_size: 4
input { name: "DATA" data_type: TYPE_FP32 dims: [ 1 ] }
output { name: "ANSWER" data_type: TYPE_FP32 dims: [ 1 ] }
ensemble_scheduling { step {
  model_name: "scheduler" model_version: -1
  input_map { key: "DATA" value: "DATA" }
  output_map { key: "ANSWER" value: "ANSWER" }
} }
"""


def write_scratch(folder: Path) -> tuple[Path, Path]:
    """A repository and the backends that it needs, in `folder`."""
    backends, repository = folder / "backends", folder / "repository"
    for name, source in {"elastic_scheduler": SCHEDULER, "elastic": EXECUTOR}.items():
        (backends / name).mkdir(parents=True)
        (backends / name / "model.py").write_text(source)
    configs = {
        "task": ENSEMBLE,
        "scheduler": MODEL.format(backend="elastic_scheduler"),
        "executor": MODEL.format(backend="elastic"),
    }
    for name, config in configs.items():
        (repository / name / "1").mkdir(parents=True)
        (repository / name / "1/keep").touch()
        (repository / name / "config.pbtxt").write_text(f'name: "{name}"\n{config}')
    return repository, backends


def infer(url: str, model: str, value: float, timeout_s: float = LIMIT_S) -> float:
    body = {"inputs": [{"name": "DATA", "datatype": "FP32", "shape": [1, 1], "data": [value]}]}
    request = urllib.request.Request(f"{url}/v2/models/{model}/infer", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=timeout_s) as response:
        return float(json.load(response)["outputs"][0]["data"][0])


class Asking:
    """A request in the background, over gRPC: for HTTP, Triton lets the connection end before it stops its models."""

    def __init__(self, grpc_url: str, model: str, value: float) -> None:
        self._client = grpcclient.InferenceServerClient(grpc_url)
        self._data = grpcclient.InferInput("DATA", [1, 1], "FP32")
        self._data.set_data_from_numpy(np.full((1, 1), value, np.float32))
        self._model = model
        self.answer: float | str | None = None
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self) -> None:
        try:
            result = self._client.infer(self._model, [self._data], client_timeout=LIMIT_S)
            self.answer = float(result.as_numpy("ANSWER")[0, 0])
        except InferenceServerException as error:
            self.answer = str(error)

    def wait(self) -> float | str | None:
        """The answer, or the text of the error."""
        self._thread.join()
        self._client.close()
        return self.answer


def started(repository: Path) -> bool:
    return (repository / "executor/1/started").exists()


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {LIMIT_S:g} s"
        time.sleep(0.02)


def regions(pid: int) -> set[str]:
    """The shared memory regions of the servers that process `pid` started."""
    return {path.name for path in Path("/dev/shm").glob(f"elastriton_{pid}_*")}
