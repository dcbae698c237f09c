"""Opening, closing, waiting: the blocking client's thread above all."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from elastriton.client import AsyncClient, Client, ClientError, Request, RequestTimeoutError, UnavailableError
from elastriton.client.testing import FakeTransport

OUTPUTS = {"LABEL": "River", "PROBABILITIES": [1.0], "GAMMA": 0}


def river(request: Request) -> Mapping[str, Any]:
    return OUTPUTS


class Stuck:
    """A handler that never answers; `reached` is set once a request is in its hands."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.cancelled = threading.Event()

    async def __call__(self, request: Request) -> Mapping[str, Any]:
        self.reached.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return OUTPUTS


@contextmanager
def in_thread(client: Client, texts: list[str]) -> Iterator[list[Any]]:
    outcome: list[Any] = []

    def work() -> None:
        try:
            outcome.extend(client.classify("clinc150", texts=texts, return_errors=True))
        except ClientError as error:
            outcome.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    yield outcome
    thread.join(5)
    assert not thread.is_alive()


def client_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "elastriton-client"]


def test_the_thread_starts_with_the_first_use_and_ends_with_close() -> None:
    transport = FakeTransport(river)
    with Client(transport) as client:
        assert client_threads() == []
        client.classify("eurosat", images=[b"x"])
        assert [thread.daemon for thread in client_threads()] == [True]
    assert client_threads() == []
    assert transport.closed


@pytest.mark.parametrize("call", ["asyncio.new_event_loop", "threading.Thread.start"])
def test_a_loop_that_cannot_be_started_is_an_error_and_the_next_call_tries_again(
    call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the process may open no more files, or have no more threads."""

    def refuse(*arguments: Any) -> Any:
        raise (
            RuntimeError("can't start new thread") if "thread" in call else OSError(errno.EMFILE, "Too many open files")
        )

    transport = FakeTransport(river)
    with Client(transport) as client:
        with monkeypatch.context() as patch:
            patch.setattr(call.replace("asyncio", "asyncio.events"), refuse)
            for use in (client.is_ready, lambda: client.classify("eurosat", images=[b"x"])):
                with pytest.raises(UnavailableError, match=r"event loop cannot be started: .*(Too many|can't start)"):
                    use()
        assert client.classify("eurosat", images=[b"x"])[0].label == "River"
    assert transport.closed


def test_closing_where_no_loop_can_be_started_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    client = Client(FakeTransport(river))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(UnavailableError):
            client.close()
    client.close()
    with pytest.raises(ClientError, match="this client is closed"):
        client.is_ready()


def test_a_closed_client_says_so_and_closing_twice_is_fine() -> None:
    client = Client(FakeTransport(river))
    client.close()
    client.close()
    for use in (client.is_ready, client.wait_ready, client.__enter__):
        with pytest.raises(ClientError, match="this client is closed"):
            use()
    with pytest.raises(ClientError, match="this client is closed"):
        client.classify("eurosat", images=[b"x"])


def test_a_closed_asyncio_client_says_so_too() -> None:
    async def main() -> None:
        client = AsyncClient(FakeTransport(river))
        await client.close()
        await client.close()
        for use in (client.is_ready, client.wait_ready, client.__aenter__):
            with pytest.raises(ClientError, match="this client is closed"):
                await use()
        with pytest.raises(ClientError, match="this client is closed"):
            await client.classify("eurosat", images=[b"x"])

    asyncio.run(main())


def test_closing_ends_the_requests_in_flight_and_in_the_queue() -> None:
    stuck = Stuck()
    client = Client(FakeTransport(stuck), max_in_flight=1)
    with in_thread(client, ["in flight", "waiting"]) as outcome:
        assert stuck.reached.wait(5)
        client.close()
    assert [str(error) for error in outcome if type(error) is ClientError] == [
        f"task 'clinc150', item {index}: this client is closed; make a new one, or keep this one open for longer"
        for index in (0, 1)
    ]
    assert client_threads() == []


class Silent(FakeTransport):
    """A server that takes its time to say that it is ready."""

    async def server_ready(self, timeout_s: float) -> bool:
        return await asyncio.sleep(timeout_s, True)


def test_closing_ends_the_calls_that_ask_whether_the_server_is_ready() -> None:
    async def main() -> None:
        client = AsyncClient(Silent(river), timeout_s=60.0)
        asking = [asyncio.create_task(client.is_ready()), asyncio.create_task(client.wait_ready())]
        await asyncio.sleep(0.05)
        await client.close()
        for outcome in await asyncio.gather(*asking, return_exceptions=True):
            assert type(outcome) is ClientError
            assert "this client is closed" in str(outcome)

    asyncio.run(main())


def test_a_caller_that_is_cancelled_while_it_asks_stays_so() -> None:
    async def main() -> None:
        async with AsyncClient(Silent(river), timeout_s=60.0) as client:
            asking = asyncio.create_task(client.is_ready())
            await asyncio.sleep(0.05)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking

    asyncio.run(main())


def test_an_interrupt_of_the_caller_cancels_its_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = Stuck()

    def interrupted(future: Any, timeout: float | None = None) -> None:
        assert stuck.reached.wait(5)
        raise KeyboardInterrupt

    with Client(FakeTransport(stuck)) as client:
        client.is_ready()
        with monkeypatch.context() as patch:
            patch.setattr("concurrent.futures.Future.result", interrupted)
            with pytest.raises(KeyboardInterrupt):
                client.classify("clinc150", texts=["x"])
        assert stuck.cancelled.wait(5)


def test_threads_share_a_client() -> None:
    with Client(FakeTransport(lambda request: {**OUTPUTS, "LABEL": request.values[0]})) as client:
        with ExitStack() as threads:
            outcomes = [threads.enter_context(in_thread(client, [str(number)] * 20)) for number in range(8)]
        assert len(client_threads()) == 1
    assert [{answer.label for answer in outcome} for outcome in outcomes] == [{str(number)} for number in range(8)]


def test_the_blocking_client_works_inside_a_running_event_loop() -> None:
    async def notebook() -> str | None:
        with Client(FakeTransport(river)) as client:
            return client.classify("eurosat", images=[b"x"])[0].label

    assert asyncio.run(notebook()) == "River"


def test_wait_ready_returns_once_the_server_is_ready() -> None:
    transport = FakeTransport(river, ready=False)
    with Client(transport) as client:
        assert client.is_ready() is False
        threading.Timer(0.05, lambda: setattr(transport, "ready", True)).start()
        client.wait_ready(5)
        assert client.is_ready() is True


def test_wait_ready_gives_up_in_time() -> None:
    with (
        Client(FakeTransport(river, ready=False)) as client,
        pytest.raises(RequestTimeoutError, match=r"was not ready within 0\.05 s"),
    ):
        client.wait_ready(0.05)


def test_cancelling_an_asyncio_call_cancels_its_requests() -> None:
    stuck = Stuck()

    async def main() -> None:
        async with AsyncClient(FakeTransport(stuck)) as client:
            call = asyncio.create_task(client.classify("clinc150", texts=["x"], return_errors=True))
            while not stuck.reached.is_set():
                await asyncio.sleep(0)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

    asyncio.run(main())
    assert stuck.cancelled.is_set()
