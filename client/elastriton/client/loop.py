"""An event loop on a thread of its own, so that blocking code can use the asyncio client."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from elastriton.client.errors import CLOSED, ClientError, UnavailableError

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

        Raises ClientError where the loop is closed, or closes before the coroutine has ended; UnavailableError where
        it cannot be started.
        """
        with self._lock:
            if self._closed:
                coroutine.close()
                raise ClientError(CLOSED)
            future = asyncio.run_coroutine_threadsafe(coroutine, self._started(coroutine))
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise ClientError(CLOSED) from None
        finally:
            future.cancel()

    def close(self, last: Coroutine[Any, Any, None]) -> None:
        """Run `last`, cancel what is still running, end the thread and wait for its end; closing twice is fine.

        Raises UnavailableError where there is no loop yet, and it cannot be started.
        """
        with self._lock:
            if self._closed:
                last.close()
                return
            self._closed = True
            loop = self._started(last)
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

    def _started(self, first: Coroutine[Any, Any, Any]) -> asyncio.AbstractEventLoop:
        """The loop, for `first` to run on, which is closed where it cannot be started."""
        if self._loop is None:
            started: concurrent.futures.Future[asyncio.AbstractEventLoop] = concurrent.futures.Future()
            thread = threading.Thread(target=self._work, args=[started], name="elastriton-client", daemon=True)
            try:
                thread.start()
                self._loop, self._thread = started.result(), thread
            except (OSError, RuntimeError) as error:
                first.close()
                raise UnavailableError(
                    f"the client's event loop cannot be started: {error}; close files, or raise the process's limits"
                ) from error
        return self._loop

    def _work(self, started: concurrent.futures.Future[asyncio.AbstractEventLoop]) -> None:
        serving = self._serve(started)
        try:
            asyncio.run(serving)
        except Exception as error:
            if started.done():
                raise
            serving.close()
            started.set_exception(error)

    async def _serve(self, started: concurrent.futures.Future[asyncio.AbstractEventLoop]) -> None:
        self._stop = asyncio.Event()
        started.set_result(asyncio.get_running_loop())
        await self._stop.wait()
