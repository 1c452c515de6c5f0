"""The doorbell: few jobs, the last ring always goes out, and nobody ever waits for it."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from shared.queue import DRAIN, QUEUE_NAME, Doorbell, deserialize_job, redis_pool, serialize_job
from workers.stack.servers import Servers


async def jobs(url: str) -> list[dict[str, object]]:
    pool = redis_pool(url)
    keys = await pool.keys("arq:job:*")
    found = [deserialize_job(await pool.get(key)) for key in keys]
    await pool.aclose()
    return found


@pytest.fixture
async def url(servers: Servers) -> str:
    pool = redis_pool(servers.valkey.url())
    await pool.flushall()
    await pool.aclose()
    return servers.valkey.url()


async def test_rings_are_coalesced_and_the_last_one_goes_out(url: str) -> None:
    bell = Doorbell(url)
    for number in range(1000):
        bell.ring({number % 7})
    await asyncio.sleep(0.1)
    bell.ring({99})
    await bell.close()
    sent = await jobs(url)
    assert len(sent) <= 3
    assert {job["f"] for job in sent} == {DRAIN}
    lanes = {lane for job in sent for lane in job["a"][0]}  # type: ignore[index]
    assert lanes == {*range(7), 99}


async def test_a_job_is_due_whatever_the_senders_clock_says(url: str) -> None:
    bell = Doorbell(url)
    bell.ring({1})
    await bell.close()
    pool = redis_pool(url)
    [(name, score)] = await pool.zrange(QUEUE_NAME, 0, -1, withscores=True)
    assert score == 1000
    assert 0 < await pool.pttl(b"arq:job:" + name) <= 60_000
    await pool.aclose()


async def test_ringing_into_the_void_costs_nothing() -> None:
    for address in ("", "redis://127.0.0.1:1/0"):
        bell = Doorbell(address)
        started_at = time.perf_counter()
        for number in range(100):
            bell.ring({number})
            await asyncio.sleep(0)
        assert time.perf_counter() - started_at < 0.3
        await bell.close()


def test_jobs_are_json() -> None:
    job: dict[str, Any] = {"t": None, "f": DRAIN, "a": ([1, 2],), "k": {}, "et": datetime.now(UTC)}
    assert deserialize_job(serialize_job(job))["a"] == [[1, 2]]
    with pytest.raises(UnicodeDecodeError):
        deserialize_job(b"\x80\x04K\x01.")
