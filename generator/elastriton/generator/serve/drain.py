"""Empty a server before it is stopped: unload its models from the outside in, and wait for what is in flight.

After SIGTERM a call from one model to another fails, and so does the next step of an ensemble: whatever our schedulers
still hold would be lost. An unloaded model refuses new requests and answers those that it has, so unloading the public
ensembles first, then those who call other models, and last the called ones, loses nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from elastriton.generator.serve.rest import NoAnswer, Rest, public_ensembles

_CALLERS = ("cascade", "elastic_scheduler")  # backends that call other models, the outer first
_POLL_S = 0.1


def drain(url: str, timeout_s: float = 30.0) -> bool:
    """Unload every model of the server at `url` (`http://host:port`); True when all were answered in time."""
    rest = Rest(url)
    deadline = time.monotonic() + timeout_s
    try:
        loaded = _in_state(rest, "READY", "LOADING", "UNLOADING")
        for level in levels({name: rest.config(name) for name in _in_state(rest, "READY")}):
            for name in level:
                rest.unload(name)
            if not _emptied(rest, level, deadline):
                return False
        return _emptied(rest, loaded, deadline)
    except NoAnswer:
        return False


def levels(configs: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """The models in the order to unload them, those of one level together."""
    rest = dict(configs)
    ordered = []
    while level := public_ensembles(rest):
        ordered.append(level)
        rest = {name: config for name, config in rest.items() if name not in level}
    for backend in _CALLERS:
        ordered.append(sorted(name for name, config in rest.items() if config.get("backend") == backend))
    ordered.append(sorted(name for name, config in rest.items() if config.get("backend") not in _CALLERS))
    return [level for level in ordered if level]


def _emptied(rest: Rest, names: Iterable[str], deadline: float) -> bool:
    waiting = set(names)
    while waiting & _in_state(rest, "READY", "LOADING", "UNLOADING"):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _in_state(rest: Rest, *states: str) -> set[str]:
    """The models of which some version is in one of `states`; UNLOADING lasts until the last answer."""
    return {model["name"] for model in rest.index() if model.get("state") in states}
