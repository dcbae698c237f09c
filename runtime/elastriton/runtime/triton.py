"""The seam to Triton's Python backend: the only module of elastriton that knows `triton_python_backend_utils`.

    pb_utils.InferenceRequest ──read──► Request ──► a service ──► Reply ──sender──► pb_utils.InferenceResponse

Importable only inside a stub process (or a test that puts a stand-in into sys.modules).
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import triton_python_backend_utils as pb_utils

from elastriton.core.errors import GONE, Internal, RequestError, Unavailable, parse
from elastriton.core.plan import PLAN_FILE
from elastriton.core.records import load
from elastriton.runtime.executor import Arrays
from elastriton.runtime.reply import Reply, Request
from elastriton.runtime.scheduling import Parameters

T = TypeVar("T")
_LOG = logging.getLogger(__name__)


class _TritonLog(logging.Handler):
    """Sends the records of our loggers to Triton's own log."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            log = pb_utils.Logger
            send = log.log_error if record.levelno >= logging.ERROR else log.log_warn
            send(f"[elastriton] {self.format(record)}")
        except Exception:  # to log is not worth a thread
            self.handleError(record)


logging.getLogger("elastriton").addHandler(_TritonLog(logging.WARNING))


def version_folder(args: dict[str, str]) -> Path:
    """The version folder of the model that is being initialised: where its plan and artifacts are."""
    return Path(args["model_repository"]) / args["model_version"]


def load_plan(kind: type[T], args: dict[str, str]) -> T:
    """The plan beside the model. Raises ConfigError where its fields are not those of this release."""
    return load(kind, version_folder(args) / PLAN_FILE)


def settle() -> None:
    """What has been made so far is there to stay: leave it out of garbage collection, which stops all threads.

    A full one takes a scheduler 60 ms, for numba alone, and a process with torch 250.
    """
    gc.collect()
    gc.freeze()


def arrays(request: Any) -> Arrays:
    """The input tensors of a Triton request, by name."""
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}


def read(request: Any) -> Request:
    """A Triton request as our services take it; its sender is held until the reply has been sent."""
    sender, wanted = request.get_response_sender(), request.requested_output_names()
    reply = Reply(lambda outcome: _deliver(sender, outcome, wanted))
    try:
        return Request(arrays(request), request.parameters(), request.timeout(), request.request_id(), reply)
    except Exception as error:  # the sender exists: it must be used, or the client hangs for ever
        reply.send(Internal(f"the request cannot be read: {type(error).__name__}: {error}"))
        return Request({}, "", 0, "", reply)


def response(outcome: Arrays | RequestError) -> Any:
    """Output tensors, or an error with its tag and code, as a Triton response."""
    if isinstance(outcome, RequestError):
        code = getattr(pb_utils.TritonError, outcome.triton_code)
        return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(outcome.tagged(), code))
    return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor(*item) for item in outcome.items()])


def call(model: str, inputs: Arrays, parameters: Parameters, request_id: str, outputs: Sequence[str]) -> Arrays:
    """Call another model of this server (BLS) and return its outputs by name.

    Raises the RequestError that the callee's message carries; Unavailable where the callee is gone; else Internal.
    """
    try:
        answer = pb_utils.InferenceRequest(
            model_name=model,
            requested_output_names=list(outputs),
            inputs=[pb_utils.Tensor(*item) for item in inputs.items()],
            request_id=request_id,
            parameters=parameters,
        ).exec()
    except pb_utils.TritonModelException as error:
        raise _error(model, str(error)) from None
    if answer.has_error():
        raise _error(model, answer.error().message())
    return {tensor.name(): np.asarray(tensor.as_numpy()) for tensor in answer.output_tensors()}


def _error(model: str, message: str) -> RequestError:
    gone = GONE.search(message) or "unknown model" in message
    return parse(message) or (Unavailable if gone else Internal)(f"{model} failed: {message}")


def _deliver(sender: Any, outcome: Arrays | RequestError, wanted: Container[str]) -> None:
    """Send an answer with the outputs that the request wants, and no others.

    What nobody wants, the stub itself would drop, and free its arrays without holding the GIL: the process then dies or
    hangs (measured on 24.10; python_backend's pull request 390 mends it in 24.12).
    """
    try:
        if not isinstance(outcome, RequestError):
            outcome = {name: array for name, array in outcome.items() if name in wanted}
        answer = response(outcome)
    except Exception as error:
        answer = response(Internal(f"the answer cannot be written: {type(error).__name__}: {error}"))
    try:
        sender.send(answer, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
    except Exception as error:  # a cancelled client, or a stub that is going down: nobody is left to tell
        _LOG.warning("an answer could not be sent: %s", error)
