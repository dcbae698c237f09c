"""An event loop on a thread of its own, so that blocking code can use the asyncio client."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from elastriton.client.errors import CLOSED, ClientError

T = TypeVar("T")


class LoopThread:
    """An event loop on a daemon thread: started by the first `run`, ended by `close`. Any thread may call either."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread
        self._stop: asyncio.Event

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run the coroutine on the loop and return what it returns; interrupting the caller cancels it.

        Raises ClientError where the loop is closed, or closes before the coroutine has ended.
        """
        with self._lock:
            if self._closed:
                coroutine.close()
                raise ClientError(CLOSED)
            future = asyncio.run_coroutine_threadsafe(coroutine, self._started())
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise ClientError(CLOSED) from None
        finally:
            future.cancel()

    def close(self, last: Coroutine[Any, Any, None]) -> None:
        """Run `last`, cancel what is still running, end the thread and wait for its end; closing twice is fine."""
        with self._lock:
            if self._closed:
                last.close()
                return
            self._closed = True
            loop = self._started()
            future = asyncio.run_coroutine_threadsafe(last, loop)
        try:
            future.result()
        finally:
            loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def check_open(self) -> None:
        """Raises ClientError where the loop is closed."""
        if self._closed:
            raise ClientError(CLOSED)

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            started: concurrent.futures.Future[asyncio.AbstractEventLoop] = concurrent.futures.Future()
            self._thread = threading.Thread(
                target=lambda: asyncio.run(self._serve(started)), name="elastriton-client", daemon=True
            )
            self._thread.start()
            self._loop = started.result()
        return self._loop

    async def _serve(self, started: concurrent.futures.Future[asyncio.AbstractEventLoop]) -> None:
        self._stop = asyncio.Event()
        started.set_result(asyncio.get_running_loop())
        await self._stop.wait()
