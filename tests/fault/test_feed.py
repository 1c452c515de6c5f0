"""
Fifty writers and five followers, all at once (acceptance 2): every follower sees every record that
it should exactly once, and all of them in one order.

The writers' transactions are open for a random time, so that numbers are taken in one order and
committed in another; some are rolled back, and some lose their connection. The followers speak HTTP
to a gateway process, each in a way of its own, and are cut off wherever it hits them.
"""

import asyncio
import contextlib
import itertools
import json
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from shared import db
from shared.domain.audit import Draft
from shared.settings import Endpoints
from shared.store import audit, tokens
from tests.gateway.test_process import configured, listening, process

WRITERS = 50
WRITES_FOR_S = 30.0
#: From the last commit until everybody has seen everything.
SEEN_WITHIN_S = 10.0
TENANTS = ("t0", "t1", "t2", "")
ACTIONS = ("entitlement.granted", "entitlement.changed", "event.applied", "record.imported")
TRAIL = """
SELECT id, cause_id, tenant, action FROM audit WHERE cause = 'event' ORDER BY xid, id
"""


@dataclass
class Follower:
    """Who has seen which records, by the ids of their causes, in which order."""

    client: httpx.AsyncClient
    query: dict[str, str]
    dice: random.Random
    wants: Callable[[Any], bool]
    seen: list[str] = field(default_factory=list)
    cursor: str | None = None
    cuts: int = 0

    def take(self, items: list[dict[str, Any]]) -> None:
        self.seen += [item["cause"]["id"] for item in items if item["cause"]["kind"] == "event"]

    async def page(self, **more: str) -> bool:
        """Read a page; whether more is there."""
        if self.cursor is not None:
            more["cursor"] = self.cursor
        answer = await self.client.get("/api/v1/events", params=self.query | more)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        self.take(body["data"])
        self.cursor = body["meta"]["next"]
        return bool(body["meta"]["hasMore"])

    async def ask(self) -> None:
        """Again and again, by pages of any size."""
        while True:
            if not await self.page(limit=str(self.dice.randint(1, 60))):
                await asyncio.sleep(self.dice.uniform(0, 0.3))

    async def wait(self) -> None:
        """Let every answer wait for what comes."""
        while True:
            await self.page(wait="2s", limit="20")

    async def listen(self) -> None:
        """As an EventSource does, over a line that breaks after any number of bytes."""
        while True:
            headers = {"accept": "text/event-stream"}
            if self.cursor is not None:
                headers["last-event-id"] = self.cursor
            left = self.dice.choice((0, 200, 3_000, 100_000, 400_000))
            stream = self.client.stream(
                "GET", "/api/v1/events", params=self.query, headers=headers, timeout=20
            )
            async with stream as answer:
                assert answer.status_code == 200
                text = b""
                async for chunk in answer.aiter_raw():
                    text += chunk[:left]
                    left -= len(chunk)
                    *blocks, text = text.split(b"\n\n")
                    for one in blocks:
                        self.dispatch(one.decode())
                    if left <= 0:
                        break
            self.cuts += 1

    def dispatch(self, text: str) -> None:
        """What the standard says of a block: its id counts from here on, data is an event."""
        fields = dict(line.split(": ", 1) for line in text.split("\n"))
        self.cursor = fields.get("id", self.cursor)
        if "data" in fields:
            item = json.loads(fields["data"])
            assert item["type"] == fields["event"]
            self.take([item])


async def write(url: str, dice: random.Random, until: float, done: list[str]) -> None:
    """Transactions of a random length, with records of any tenant."""
    while time.monotonic() < until:
        with contextlib.suppress(Exception):  # whose connection is killed comes back
            async with db.connect(url, "worker", name="feed-writer") as conn:
                while time.monotonic() < until:
                    async with conn.transaction() as _:
                        await one_transaction(conn, dice)
                        end = "rolled back" if dice.random() < 0.15 else "committed"
                        if end == "rolled back":
                            break
                    done.append(end)
        done.append("began anew")


async def one_transaction(conn: Any, dice: random.Random) -> None:
    now, xid = await audit.moment(conn)
    for _ in range(dice.randint(1, 2)):
        await asyncio.sleep(dice.choice((0, 0, 0.01, 0.1, 0.3, dice.uniform(0, 1.5))))
        drafts = [draft(dice) for _ in range(dice.randint(1, 4))]
        await audit.append(conn, drafts, now=now, xid=xid)
    await asyncio.sleep(dice.choice((0, 0.01, 0.2)))


def draft(dice: random.Random) -> Draft:
    name = str(uuid4())
    return Draft(
        chain=f"operator:{name}",  # a chain of its own: nobody waits for anybody
        cause="event",
        cause_id=name,
        run=1,
        tenant=dice.choice(TENANTS),
        step=0,
        action=dice.choice(ACTIONS),
        actor="provider:stripe",
        source="stripe",
        after=b'{"value": 1, "validUntil": null}',
    )


async def kill_some(owner: Any, dice: random.Random, until: float) -> int:
    """Cut off writers in the middle of a transaction."""
    killed = 0
    while time.monotonic() < until:
        await asyncio.sleep(dice.uniform(0.1, 0.5))
        killed += await owner.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity"
            " WHERE application_name = 'feed-writer' AND datname = current_database()"
            " AND backend_xid IS NOT NULL ORDER BY random() LIMIT 1) AS one"
        )
    return killed


async def add_token(owner: Any, scope: str) -> str:
    token = tokens.new_token()
    await tokens.create(owner, uuid4(), "test", scope, tokens.digest_of(token), "test", None)
    return token


@pytest.fixture
async def served(endpoints: Endpoints, tmp_path: Path) -> AsyncIterator[str]:
    await configured(endpoints)
    async with process(endpoints, tmp_path) as (_, port):
        await listening(port)
        yield f"http://127.0.0.1:{port}"


async def test_every_follower_sees_every_record_once_and_in_one_order(
    endpoints: Endpoints, served: str
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    async with db.connect(endpoints.database["owner"], "owner") as owner:
        service, own = await add_token(owner, "service"), await add_token(owner, "tenant:t1")

        def follower(
            token: str, wants: Callable[[Any], bool] = lambda _: True, **query: str
        ) -> Follower:
            headers = {"authorization": f"Bearer {token}"}
            client = httpx.AsyncClient(base_url=served, headers=headers, timeout=20)
            return Follower(client, query, random.Random(dice.random()), wants)

        asking = follower(service)
        waiting = follower(service)
        listening_ = follower(service)
        filtering = follower(
            service, lambda row: row["action"] == "entitlement.granted", type="entitlement.gr*,none"
        )
        tenants = follower(own, lambda row: row["tenant"] == "t1")
        following = [
            asyncio.create_task(one)
            for one in (
                asking.ask(), waiting.wait(), listening_.listen(), filtering.listen(),
                tenants.wait(),
            )
        ]  # fmt: skip
        everybody = [asking, waiting, listening_, filtering, tenants]

        until = time.monotonic() + WRITES_FOR_S
        done: list[str] = []
        writers = [
            write(endpoints.database["worker"], random.Random(dice.random()), until, done)
            for _ in range(WRITERS)
        ]
        killed, *_ = await asyncio.gather(kill_some(owner, dice, until), *writers)

        trail = await owner.fetch(TRAIL)
        expected = [[row["cause_id"] for row in trail if one.wants(row)] for one in everybody]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SEEN_WITHIN_S):
                while any(
                    len(one.seen) < len(wanted)
                    for one, wanted in zip(everybody, expected, strict=True)
                ):
                    await asyncio.sleep(0.1)
        await asyncio.sleep(0.5)  # and nothing twice
        for task in following:
            assert not task.done(), task.exception()
            task.cancel()
        await asyncio.wait(following)
        for one in everybody:
            await one.client.aclose()

    # It was as hard as it was meant to be.
    assert done.count("committed") > 500
    assert killed > 20
    assert len(trail) > 2000
    assert min(listening_.cuts, filtering.cuts) >= 5
    ids = [row["id"] for row in trail]
    assert sum(later < earlier for earlier, later in itertools.pairwise(ids)) > 100

    for one, wanted in zip(everybody, expected, strict=True):
        missed = set(wanted) - set(one.seen)
        twice = len(one.seen) - len(set(one.seen))
        assert (len(missed), twice) == (0, 0), (one.query, seed)
        assert one.seen == wanted, (one.query, seed)
    print(f"{len(trail)} records, {killed} killed, {listening_.cuts} + {filtering.cuts} cuts")
