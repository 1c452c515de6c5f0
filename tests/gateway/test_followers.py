"""Those who follow the feed: woken by what concerns them, many of them cheap, and gone in time."""

import asyncio
import contextlib
import json
import signal
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.api import events, followers
from shared import db
from shared.settings import Endpoints
from shared.store import feed, tokens
from tests.gateway.conftest import Gateway, assert_envelope
from tests.gateway.test_api import add_token
from tests.gateway.test_feed import PATH, ask, page, told, write
from tests.gateway.test_process import configured, listening, process

STREAM = {"accept": "text/event-stream"}


class Stream:
    """What a client gets of a stream: blocks, as dicts of their fields."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self.blocks = self._read()

    async def _read(self) -> AsyncIterator[dict[str, str]]:
        fields: dict[str, str] = {}
        async for line in self.answer.aiter_lines():
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            else:
                yield fields
                fields = {}

    async def next(self, within_s: float = 3.0) -> dict[str, str]:
        async with asyncio.timeout(within_s):
            return await anext(self.blocks)

    async def type(self) -> str:
        """The next event's type; its data says the same."""
        block = await self.next()
        assert json.loads(block["data"])["type"] == block["event"]
        return block["event"]

    async def ended(self, within_s: float) -> None:
        """No event comes any more, and the answer ends as it should."""
        async with asyncio.timeout(within_s):
            assert [one async for one in self.blocks if "data" in one] == []


@asynccontextmanager
async def stream(
    gateway: Gateway, token: str, last: str | None = None, **query: str
) -> AsyncIterator[Stream]:
    headers = STREAM | {"authorization": f"Bearer {token}"}
    if last is not None:
        headers["last-event-id"] = last
    async with gateway.client.stream("GET", PATH, params=query, headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream"
        assert "content-length" not in answer.headers
        assert len(answer.headers["x-request-id"]) == 32
        yield Stream(answer)


def waiting(gateway: Gateway, token: str, **query: Any) -> asyncio.Task[tuple[list[Any], Any]]:
    return asyncio.create_task(page(gateway, token, **query))


def count(gateway: Gateway) -> int:
    assert gateway.deps.api is not None
    return len(gateway.deps.api.followers._followers)


async def until(gateway: Gateway, number: int, within_s: float = 3.0) -> None:
    """So many follow."""
    async with asyncio.timeout(within_s):
        while count(gateway) != number:
            await asyncio.sleep(0.02)


# Waiting ----------------------------------------------------------------------------------------


async def test_an_answer_waits_for_what_comes(gateway: Gateway) -> None:
    token = await add_token(gateway, "service")
    begun_s = time.monotonic()
    items, meta = await page(gateway, token, wait="1")
    assert (items, meta["hasMore"]) == ([], False)
    assert 0.9 < time.monotonic() - begun_s < 2.5
    answer = waiting(gateway, token, wait="30s", cursor=meta["next"])
    await until(gateway, 1)
    await asyncio.sleep(0.5)
    assert not answer.done()
    await write(gateway, told("a.b"))
    items, meta = await asyncio.wait_for(answer, 2)
    assert [item["type"] for item in items] == ["a.b"]
    # What is there already is not waited for.
    begun_s = time.monotonic()
    items, _ = await page(gateway, token, wait="30s")
    assert len(items) == 1
    assert time.monotonic() - begun_s < 1
    await until(gateway, 0)


async def test_only_what_fits_ends_the_wait(gateway: Gateway) -> None:
    """Of another tenant nobody is told, not even that there was something."""
    own, service = await add_token(gateway, "tenant:acme"), await add_token(gateway, "service")
    tenants = waiting(gateway, own, wait="30s")
    filtering = waiting(gateway, service, wait="2s", type="rare")
    await until(gateway, 2)
    await asyncio.sleep(0.5)
    await write(gateway, told("a.b", "other"))
    items, meta = await filtering
    assert items == []
    assert not tenants.done()
    # And what did not fit lies behind.
    assert (await page(gateway, service, cursor=meta["next"]))[0] == []
    await write(gateway, told("a.c"))
    assert [item["type"] for item in (await asyncio.wait_for(tenants, 2))[0]] == ["a.c"]


async def test_a_merge_wakes_those_who_asked_by_the_old_name(gateway: Gateway) -> None:
    await gateway.owner.execute("INSERT INTO tenants (tenant) VALUES ('old'), ('new')")
    answer = waiting(gateway, await add_token(gateway, "tenant:old"), wait="30s")
    await until(gateway, 1)
    await asyncio.sleep(0.5)
    await gateway.owner.execute(
        "UPDATE tenants SET merged_into = 'new', merged_at = now() WHERE tenant = 'old'"
    )
    await write(gateway, told("a.b", "new"))
    assert [item["type"] for item in (await asyncio.wait_for(answer, 2))[0]] == ["a.b"]


async def test_who_goes_is_noticed(gateway: Gateway) -> None:
    token = await add_token(gateway, "service")
    tasks = [waiting(gateway, token, wait="60s") for _ in range(5)]
    async with contextlib.AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(stream(gateway, token)) for _ in range(5)]
        for one in streams:
            await one.next()
        await until(gateway, 10)
        for task in tasks:
            task.cancel()
        await until(gateway, 5)
    await until(gateway, 0)


async def test_there_is_an_end_to_how_many_follow(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followers, "FOLLOWERS_OF_TOKEN", 2)
    monkeypatch.setattr(followers, "FOLLOWERS", 3)
    first, second = await add_token(gateway, "service"), await add_token(gateway, "service")
    tasks = [waiting(gateway, first, wait="30s") for _ in range(2)]
    await until(gateway, 2)
    answer = await ask(gateway, first, wait="30s")
    assert_envelope(answer, 429, "too_many_requests")
    assert int(answer.headers["retry-after"]) > 0
    tasks.append(waiting(gateway, second, wait="30s"))
    await until(gateway, 3)
    headers = STREAM | {"authorization": f"Bearer {second}"}
    assert_envelope(await gateway.client.get(PATH, headers=headers), 503, "overloaded")
    # Who does not wait takes no place.
    assert_envelope_of_list(await ask(gateway, first))
    await write(gateway, told())
    await asyncio.gather(*tasks)
    await until(gateway, 0)
    assert len((await page(gateway, first, wait="30s"))[0]) == 1


def assert_envelope_of_list(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.json()["data"]) == (200, [])


async def test_many_followers_cost_one_reading(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And hold no connection while they wait."""
    token = await add_token(gateway, "service")
    reads: list[Any] = []
    read_stretch = feed.read_stretch

    async def counted(*args: Any, **more: Any) -> Any:
        reads.append(args)
        return await read_stretch(*args, **more)

    monkeypatch.setattr(feed, "read_stretch", counted)
    async with contextlib.AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(stream(gateway, token)) for _ in range(80)]
        for one in streams:
            await one.next()
        await until(gateway, 80)
        await write(gateway, told("a.b"))  # brings all to the same place
        for one in streams:
            assert await one.type() == "a.b"
        reads.clear()
        for number in range(5):
            await write(gateway, told(f"a.n{number}"))
            for one in streams:
                assert await one.type() == f"a.n{number}"
        assert len(reads) <= 10
        held = await gateway.owner.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'sluice-gateway-feed'"
            " AND datname = current_database()"
        )
        assert held <= followers.CONNECTIONS


async def test_going_through_all_of_the_trail_keeps_little_of_it(gateway: Gateway) -> None:
    """Nothing new comes meanwhile, so nothing else would let go of what was read."""
    token = await add_token(gateway, "service")
    assert gateway.deps.api is not None
    kept = gateway.deps.api.followers._shared
    for _ in range(followers._MOST_SHARED + 20):
        await write(gateway, told("a.b"), told("a.b"))
    async with stream(gateway, token) as first:
        await first.next()
        cursors = [(await first.next())["id"] for _ in range(2 * followers._MOST_SHARED + 40)]
        for cursor in cursors:
            async with stream(gateway, token, cursor) as one:
                await one.next()
                if cursor != cursors[-1]:
                    await one.next()
    assert len(kept) <= followers._MOST_SHARED


# Streams ----------------------------------------------------------------------------------------


async def test_a_stream_goes_on_where_it_was_cut_off(gateway: Gateway) -> None:
    token = await add_token(gateway, "service")
    await write(gateway, told("a.b"), told("a.c"), told("a.d"))
    async with stream(gateway, token) as first:
        assert (await first.next())["retry"] == "2000"
        seen = [await first.next() for _ in range(2)]
    assert [one["event"] for one in seen] == ["a.b", "a.c"]
    async with stream(gateway, token, last=seen[0]["id"]) as second:
        await second.next()
        assert [await second.type() for _ in range(2)] == ["a.c", "a.d"]
        await write(gateway, told("a.e"))
        assert await second.type() == "a.e"
    # A page goes on from it as well, and shows the same.
    items, _ = await page(gateway, token, cursor=seen[1]["id"])
    assert [item["type"] for item in items] == ["a.d", "a.e"]
    assert json.loads(seen[1]["data"]) == (await page(gateway, token))[0][1]


async def test_who_is_cut_off_before_anything_came_skips_nothing(gateway: Gateway) -> None:
    """A client asks again for the same address, "from the latest" included."""
    token = await add_token(gateway, "service")
    await write(gateway, told("a.b"))
    async with stream(gateway, token, **{"from": "latest"}) as first:
        last = (await first.next())["id"]
    await write(gateway, told("a.c"))
    async with stream(gateway, token, last=last, **{"from": "latest"}) as second:
        await second.next()
        assert await second.type() == "a.c"


async def test_a_quiet_stream_says_that_it_is_there(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And moves the client on past what did not fit, however much of that comes."""
    monkeypatch.setattr(events, "_QUIET_S", 0.5)
    token = await add_token(gateway, "service")
    async with stream(gateway, token, type="rare") as quiet:
        first = (await quiet.next())["id"]
        assert await quiet.next() == {"": "still here"}
        for number in range(8):
            await write(gateway, told(f"a.n{number}"))
            await asyncio.sleep(0.1)
        block = await quiet.next()
        while "id" not in block:
            block = await quiet.next()
        assert block.keys() == {"id"}
        assert block["id"] != first
    items, _ = await page(gateway, token, cursor=block["id"])
    assert len(items) < 8


async def test_a_stream_ends_with_its_token(gateway: Gateway) -> None:
    """Within seconds, and it says nothing more; who waits for a page is answered."""
    revoked, other = await add_token(gateway, "service"), await add_token(gateway, "service")
    page_of = waiting(gateway, revoked, wait="60s")
    async with stream(gateway, revoked) as ending, stream(gateway, other) as staying:
        await ending.next()
        await staying.next()
        await until(gateway, 3)
        await gateway.owner.execute(
            "UPDATE tokens SET revoked_at = now() WHERE id IN"
            " (SELECT id FROM tokens ORDER BY created_at LIMIT 1)"
        )
        await ending.ended(within_s=4)
        assert (await asyncio.wait_for(page_of, 1))[0] == []
        await write(gateway, told("a.b"))
        assert await staying.type() == "a.b"
    assert_envelope(await ask(gateway, revoked), 401, "invalid_token")


async def test_a_slow_reader_holds_up_nobody_and_loses_nothing(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it does not take is not read for it: the socket is full, and it waits."""
    token = await add_token(gateway, "service")
    padding = b'"' + b"x" * 6000 + b'"'
    reads: list[Any] = []
    read_stretch = feed.read_stretch

    async def counted(*args: Any, **more: Any) -> Any:
        reads.append(args)
        return await read_stretch(*args, **more)

    monkeypatch.setattr(feed, "read_stretch", counted)
    for _ in range(8):
        await write(gateway, *(told(f"a.n{n % 7}", after=padding) for n in range(500)))
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=1 << 12)
    request = f"GET {PATH} HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n"
    writer.write(f"{request}authorization: Bearer {token}\r\n\r\n".encode())
    await until(gateway, 1)
    await asyncio.sleep(1)
    assert 0 < len(reads) < 35  # of 40
    items, _ = await page(gateway, token, limit=500)  # the others are served
    assert len(items) == 500
    text, count = bytearray(), 0
    async with asyncio.timeout(20):
        while count < 4000 or not text.endswith(b"\n\n\r\n"):
            begun = max(0, len(text) - 5)  # one may be cut in two
            text += await reader.read(1 << 16)
            count += text.count(b"data: ", begun)
    writer.close()
    # Chunks end with blocks.
    ids = [line for line in bytes(text).split(b"\n") if line.startswith(b"data: ")]
    assert len(ids) == len({*ids}) == 4000
    await until(gateway, 0)


async def test_without_the_trail_followers_are_told_to_come_again(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream cannot say so any more: it ends, and who comes back is told."""
    monkeypatch.setattr(events, "_QUIET_S", 0.5)
    token = await add_token(gateway, "service")
    async with stream(gateway, token) as ending:
        await ending.next()
        await until(gateway, 1)
        await write(gateway, told("a.b"))
        assert await ending.type() == "a.b"
        await gateway.owner.execute("ALTER TABLE audit RENAME TO elsewhere")
        await ending.ended(within_s=3)
        for query in ({}, {"wait": "5s"}):
            assert_envelope(await ask(gateway, token, **query), 503, "store_unavailable")
        await gateway.owner.execute("ALTER TABLE elsewhere RENAME TO audit")
    assert len((await page(gateway, token))[0]) == 1
    assert not gateway.logged.tracebacks


async def test_a_gateway_that_stops_lets_go_of_its_followers(
    endpoints: Endpoints, tmp_path: Path
) -> None:
    """At once, and each answer ends as it should: who waited has a page, and a cursor."""
    await configured(endpoints)
    async with (
        process(endpoints, tmp_path) as (running, port),
        db.connect(endpoints.database["owner"], "owner") as owner,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client,
    ):
        await listening(port)
        token = tokens.new_token()
        await tokens.create(
            owner, uuid.uuid4(), "test", "service", tokens.digest_of(token), "test", None
        )
        client.headers["authorization"] = f"Bearer {token}"
        waits = [asyncio.create_task(client.get(PATH, params={"wait": "60s"})) for _ in range(5)]
        async with contextlib.AsyncExitStack() as stack:
            streams = [
                Stream(await stack.enter_async_context(client.stream("GET", PATH, headers=STREAM)))
                for _ in range(20)
            ]
            for one in streams:
                await one.next(within_s=10)
            begun_s = time.monotonic()
            running.send_signal(signal.SIGTERM)
            for one in streams:
                await one.ended(within_s=3)
            for answer in await asyncio.gather(*waits):
                assert (answer.status_code, answer.json()["data"]) == (200, [])
                assert answer.json()["meta"]["next"]
        await asyncio.wait_for(running.wait(), 10)
        assert time.monotonic() - begun_s < 5
    assert running.returncode == 0


async def test_a_head_ends(gateway: Gateway) -> None:
    token = await add_token(gateway, "service")
    headers = STREAM | {"authorization": f"Bearer {token}"}
    for query in ({}, {"wait": "60s"}):
        answer = await gateway.client.head(PATH, headers=headers, params=query)
        assert (answer.status_code, answer.content) == (200, b"")


async def test_a_stream_says_before_it_begins_what_is_wrong(gateway: Gateway) -> None:
    token = await add_token(gateway, "tenant:acme")
    headers = STREAM | {"authorization": f"Bearer {token}"}
    wrong: list[tuple[dict[str, str], dict[str, str], int, str]] = [
        ({"tenant": "other"}, {}, 404, "not_found"),
        ({"wait": "3s"}, {}, 400, "malformed_request"),
        ({"type": ""}, {}, 400, "malformed_request"),
        ({}, {"last-event-id": "x"}, 400, "malformed_request"),
        ({}, {"authorization": "Bearer slu_x"}, 401, "invalid_token"),
    ]
    for query, more, status, code in wrong:
        answer = await gateway.client.get(PATH, params=query, headers=headers | more)
        assert_envelope(answer, status, code)
    await until(gateway, 0)
