"""The few calls of Triton's HTTP API that serving needs, by the standard library alone.

urllib closes each connection: an idle one that was kept alive would make Triton's own shutdown wait for it.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # HTTP_PROXY is for the world outside


class NoAnswer(Exception):
    """The server did not answer: not listening, gone in the middle, or too slow."""


@dataclass(frozen=True, slots=True)
class Rest:
    """Triton's HTTP API at `url` (`http://host:port`)."""

    url: str
    timeout_s: float = 5.0

    def call(self, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
        """The status and the body that `path` answers with; a POST where there is a body."""
        request = urllib.request.Request(f"{self.url}/v2/{path}".rstrip("/"), data=body, headers=dict(headers or {}))
        try:
            with _OPENER.open(request, timeout=self.timeout_s) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()
        except (OSError, HTTPException) as error:
            raise NoAnswer(f"{self.url} does not answer: {error}") from error

    def ready(self) -> bool:
        """Whether the server says that it is ready; True says nothing about dead stubs."""
        try:
            return self.call("health/ready")[0] == 200
        except NoAnswer:
            return False

    def version(self) -> str:
        """The server's version, e.g. "2.51.0"."""
        return str(self._json("").get("version", "unknown"))

    def index(self) -> list[dict[str, str]]:
        """The repository index: `name` and, once it was loaded, `version`, `state` and `reason` of every model."""
        models: list[dict[str, str]] = self._json("repository/index", b"{}")
        return models

    def config(self, model: str) -> dict[str, Any]:
        """The configuration of `model` as Triton uses it."""
        config: dict[str, Any] = self._json(f"models/{model}/config")
        return config

    def unload(self, model: str) -> None:
        """Start to unload `model`: what is in flight is answered, what comes later is refused."""
        self._json(f"repository/models/{model}/unload", b"{}")

    def _json(self, path: str, body: bytes | None = None) -> Any:
        status, answer = self.call(path, body)
        if status != 200:
            raise NoAnswer(f"{self.url}/v2/{path} answers HTTP {status}: {answer[:300].decode(errors='replace')}")
        return json.loads(answer or b"null")


def public_ensembles(configs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The ensembles that are no step of another ensemble: what clients call."""
    inner = {step for config in configs.values() for step in steps(config)}
    return sorted(name for name, config in configs.items() if is_ensemble(config) and name not in inner)


def is_ensemble(config: Mapping[str, Any]) -> bool:
    return config.get("platform") == "ensemble"


def steps(config: Mapping[str, Any]) -> list[str]:
    """The models that an ensemble consists of."""
    return [step["model_name"] for step in config.get("ensemble_scheduling", {}).get("step", [])]
