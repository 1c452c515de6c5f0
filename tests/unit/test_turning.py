"""Turns of what asks providers: one that fails is said, and the next one comes."""

import asyncio
import logging

import pytest

from workers.fetching.turning import guarded, take_turns

log = logging.getLogger("turning")


async def fail(error: Exception) -> bool:
    raise error


async def test_a_turn_that_fails_is_said_and_the_next_one_comes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[int] = []
    is_over = asyncio.Event()

    async def turn() -> bool:
        seen.append(len(seen))
        if len(seen) == 1:
            raise ValueError("a bug")
        if len(seen) == 3:
            is_over.set()
        return False

    running = asyncio.create_task(take_turns(turn, 0.001, log, "pulling", at="look"))
    await asyncio.wait_for(is_over.wait(), 5)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    (said,) = caplog.records
    assert (said.levelname, said.getMessage()) == ("ERROR", "pulling failed")
    assert said.exc_info is not None
    assert said.__dict__["at"] == "look"


async def test_what_the_platform_did_is_put_off(caplog: pytest.LogCaptureFixture) -> None:
    assert not await guarded(fail(ConnectionResetError("cut")), log, "fetching", source="stripe")
    (said,) = caplog.records
    assert (said.levelname, said.getMessage()) == ("WARNING", "fetching put off")
    assert said.__dict__["source"] == "stripe"
    assert "cut" in said.__dict__["error"]
