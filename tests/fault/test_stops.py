"""A worker hears a stop, whatever arq and redis are at just then, and leaves nothing behind."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from arq.worker import Worker

from tests.support.stack import Stack
from workers.fleet import _closed, _listen, work_until
from workers.process import visit
from workers.rounds import Rounds

AWAY = "redis://127.0.0.1:1/0"


@pytest.fixture
async def hanging() -> AsyncIterator[str]:
    """The URL of a Redis that accepts connections and never answers."""

    async def never_answer(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    server = await asyncio.start_server(never_answer, "127.0.0.1", 0)
    yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    server.close()


@pytest.fixture
async def complaints() -> AsyncIterator[list[str]]:
    """What the event loop has to say, as of tasks that failed and were asked by nobody."""
    found: list[str] = []
    loop = asyncio.get_running_loop()

    def hear(_: object, context: dict[str, Any]) -> None:
        # A pipeline that redis was stopped before entering holds no connection.
        if context.get("message") != "Unclosed Pipeline client":
            found.append(repr(context))

    loop.set_exception_handler(hear)
    yield found
    loop.set_exception_handler(None)


@pytest.mark.timeout(60)
async def test_a_stop_is_heard_while_redis_hangs_or_is_away(
    stack: Stack, hanging: str, complaints: list[str]
) -> None:
    """Whatever arq is at: waiting (the first second), closing (the second one), pausing."""
    workers: list[asyncio.Task[None]] = []

    async def stopped_after(wait_s: float, url: str) -> tuple[bool, bool]:
        stop = asyncio.Event()
        workers.append(asyncio.create_task(work_until(stop, stack.crew, url, slots=1)))
        working = workers[-1]
        await asyncio.sleep(wait_s)
        was_closing = any(_is_at(_closed, one.get_coro().cr_await) for one in _tasks_at(_listen))
        stop.set()
        ended, _ = await asyncio.wait({working}, timeout=5)
        return was_closing, bool(ended)

    cases = [(tenths / 10, hanging) for tenths in range(0, 30, 2)]
    cases += [(wait_s, AWAY) for wait_s in (0.0, 0.01, 0.05, 0.3, 0.6)]
    stopped = await asyncio.gather(*(stopped_after(*case) for case in cases))
    await _end_listeners()
    await asyncio.gather(*workers)
    assert [case for case, (_, ended) in zip(cases, stopped, strict=True) if not ended] == []
    assert {was_closing for was_closing, _ in stopped} == {True, False}
    await _none_is_left_at(Worker.main)
    gc.collect()
    assert complaints == []


@pytest.mark.timeout(60)
async def test_a_stop_is_heard_at_every_turn_of_the_loop(
    stack: Stack, hanging: str, complaints: list[str]
) -> None:
    """Below Python 3.12 redis loses a cancellation that comes just as it has written."""

    async def cancelled_after(turns: int, url: str) -> bool:
        rounds = Rounds(lambda lane: visit(stack.crew, lane), 1, dict)
        listening = asyncio.create_task(_listen(url, rounds, stack.crew))
        for _ in range(turns):
            await asyncio.sleep(0)
        listening.cancel()
        ended, _ = await asyncio.wait({listening}, timeout=5)
        return bool(ended)

    cases = [(turns, url) for url in (hanging, stack.endpoints.redis, AWAY) for turns in range(60)]
    heard = await asyncio.gather(*(cancelled_after(*case) for case in cases))
    await _end_listeners()
    assert [case for case, ended in zip(cases, heard, strict=True) if not ended] == []
    await _none_is_left_at(Worker.main)
    gc.collect()
    assert complaints == []


async def _end_listeners() -> None:
    """Who does not hear a stop may miss a cancellation too, and would outlive the test."""
    while left := _tasks_at(_listen):
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=0.3)


async def _none_is_left_at(function: Callable[..., Any]) -> None:
    """Whoever is cancelled again and again ends at last, on however slow a machine."""
    async with asyncio.timeout(10):
        while _tasks_at(function):
            await asyncio.sleep(0.02)


def _tasks_at(function: Callable[..., Any]) -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if _is_at(function, task.get_coro())]


def _is_at(function: Callable[..., Any], awaitable: object) -> bool:
    return getattr(awaitable, "cr_code", None) is function.__code__
