"""A stand-in for `triton_python_backend_utils`, which exists only inside a stub process."""

from __future__ import annotations

import gc
import importlib.util
import json
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[3]
ALL = {"LABEL", "PROBABILITIES", "SCORE", "GAMMA", "LEVEL", "FALLBACK"}


class Tensor:
    def __init__(self, name: str, array: Any) -> None:
        self._name, self._array = name, np.asarray(array)

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> Any:
        return self._array


class TritonError(Exception):
    INTERNAL, INVALID_ARG, UNAVAILABLE = "INTERNAL", "INVALID_ARG", "UNAVAILABLE"

    def __init__(self, message: str, code: str = INTERNAL) -> None:
        super().__init__(message)
        self.code = code

    def message(self) -> str:
        return str(self)


class Response:
    def __init__(self, output_tensors: list[Tensor], error: TritonError | None = None) -> None:
        self.tensors = {tensor.name(): tensor.as_numpy() for tensor in output_tensors}
        self.failure = error

    def has_error(self) -> bool:
        return self.failure is not None

    def error(self) -> TritonError | None:
        return self.failure

    def output_tensors(self) -> list[Tensor]:
        return [Tensor(name, array) for name, array in self.tensors.items()]


class Request:
    """A request as a stub sees it, for the outputs `wanted`; `sent` holds what its sender was given."""

    def __init__(
        self, tensors: dict[str, Any], parameters: dict[str, Any] | None = None, wanted: set[str] = ALL
    ) -> None:
        self._tensors, self._parameters, self._wanted = tensors, parameters, wanted
        self.sent: list[Response] = []

    def inputs(self) -> list[Tensor]:
        return [Tensor(*item) for item in self._tensors.items()]

    def parameters(self) -> str:
        return json.dumps(self._parameters) if self._parameters else ""

    def timeout(self) -> int:
        return 0

    def request_id(self) -> str:
        return "id"

    def requested_output_names(self) -> set[str]:
        return self._wanted

    def get_response_sender(self) -> Any:
        return types.SimpleNamespace(send=lambda response, flags: self.sent.append(response))


class Metric:
    def increment(self, value: float) -> None: ...
    def observe(self, value: float) -> None: ...
    def set(self, value: float) -> None: ...


class MetricFamily:
    COUNTER, GAUGE, HISTOGRAM = "COUNTER", "GAUGE", "HISTOGRAM"

    def __init__(self, name: str, description: str, kind: str) -> None: ...

    def Metric(self, labels: dict[str, str], buckets: list[float] | None = None) -> Metric:  # noqa: N802
        return Metric()


@pytest.fixture
def load_backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """`load_backend(name, callee=None)`: the module as the stub would import it; `callee` answers its BLS calls."""
    utils = types.ModuleType("triton_python_backend_utils")
    for thing in (Tensor, TritonError, MetricFamily):
        setattr(utils, thing.__name__, thing)
    quiet = types.SimpleNamespace(log_warn=lambda text: None, log_error=lambda text: None)
    more = {"InferenceResponse": Response, "TRITONSERVER_RESPONSE_COMPLETE_FINAL": 1, "Logger": quiet}
    for name, value in {**more, "TritonModelException": RuntimeError}.items():
        setattr(utils, name, value)

    def load(name: str, callee: Callable[..., Response] | None = None) -> Any:
        utils.InferenceRequest = lambda **arguments: types.SimpleNamespace(  # type: ignore[attr-defined]
            exec=lambda: callee(**arguments) if callee else None
        )
        monkeypatch.setitem(sys.modules, "triton_python_backend_utils", utils)
        forget_the_seam()
        spec = importlib.util.spec_from_file_location("model", ROOT / "backends" / name / "model.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.TritonPythonModel()

    yield load
    forget_the_seam()
    gc.unfreeze()


def forget_the_seam() -> None:
    """Let the modules that know pb_utils be imported anew, with the stand-in of the test at hand."""
    import elastriton.runtime as package

    for name in ("triton", "metrics"):
        sys.modules.pop(f"elastriton.runtime.{name}", None)
        if hasattr(package, name):
            delattr(package, name)


@pytest.fixture
def args(tiny_repository: Path) -> Callable[[str], dict[str, str]]:
    """What Triton passes to initialize() of a model."""
    return lambda model: {
        "model_repository": str(tiny_repository / model),
        "model_version": "1",
        "model_name": model,
        "model_instance_kind": "CPU",
        "model_instance_device_id": "0",
    }


@pytest.fixture
def stub_request() -> type[Request]:
    return Request


@pytest.fixture
def stub_response() -> type[Response]:
    return Response


@pytest.fixture
def stub_tensor() -> type[Tensor]:
    return Tensor
