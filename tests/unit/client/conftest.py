"""Every test of `classify` runs twice: through the blocking client and through the asyncio one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from elastriton.client import AsyncClient, Client, Transport

Classify = Callable[..., list[Any]]


def classify_blocking(server: str | Transport, task: str, *, options: dict[str, Any] | None = None, **ask: Any) -> Any:
    with Client(server, **(options or {})) as client:
        return client.classify(task, **ask)


def classify_asyncio(server: str | Transport, task: str, *, options: dict[str, Any] | None = None, **ask: Any) -> Any:
    async def main() -> Any:
        async with AsyncClient(server, **(options or {})) as client:
            return await client.classify(task, **ask)

    return asyncio.run(main())


@pytest.fixture(params=[classify_blocking, classify_asyncio], ids=["blocking", "asyncio"])
def classify(request: pytest.FixtureRequest) -> Classify:
    function: Classify = request.param
    return function
