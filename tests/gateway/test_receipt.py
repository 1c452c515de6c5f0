"""The ledger decides who was first; everybody else is a redelivery of that event."""

import asyncio
import os
from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.intake import Intake
from shared import db
from shared.domain.events import Identity, new_tracking_id
from shared.settings import Endpoints
from shared.store import intake
from shared.store.intake import Delivery, Receipt
from tests.gateway.conftest import Gateway, assert_envelope, event


def delivery(event_id: str, body: bytes = b"{}", *, lane: int = 1, **identity: Any) -> Delivery:
    return Delivery(
        tracking_id=new_tracking_id(datetime.now(UTC), os.urandom(10)),
        source_id=1,
        lane=lane,
        identity=Identity(event_id, "a.type", event_id, **identity),
        unreadable=None,
        secret="0.1",
        headers=b"[]",
        body=body,
        body_sha=intake.sha_of(body),
        trace_context="",
    )


async def test_fifty_deliveries_at_once_are_one_event(gateway: Gateway) -> None:
    answers = await asyncio.gather(*(gateway.post(event()) for _ in range(50)))
    data = [assert_envelope(answer, 200, None) for answer in answers]
    assert sorted(one["status"] for one in data) == ["duplicate"] * 49 + ["new"]
    assert len({one["trackingId"] for one in data}) == 1
    assert await gateway.count("ledger") == 1
    assert await gateway.count("inbox") == 1
    assert await gateway.count("deliveries") == 49
    kinds = await gateway.owner.fetch("SELECT kind, count(*) AS n FROM work GROUP BY kind")
    assert {row["kind"]: row["n"] for row in kinds} == {"event": 1, "redelivery": 49}
    assert await gateway.count("deliveries WHERE body IS NOT NULL") == 0


async def test_another_body_under_the_same_id_is_kept(gateway: Gateway) -> None:
    """And judged in the lane of the event, whatever subject the other body names."""
    await gateway.post(event("evt_1", subject="sub_1"))
    other = event("evt_1", subject="sub_2", pending_webhooks=3)
    data = assert_envelope(await gateway.post(other), 200, None)
    assert data["status"] == "duplicate"
    [kept] = await gateway.owner.fetch("SELECT body, tracking_id FROM deliveries")
    assert kept["body"] == other
    assert str(kept["tracking_id"]) == data["trackingId"]
    assert len(await gateway.owner.fetch("SELECT DISTINCT lane FROM work")) == 1
    received = await gateway.owner.fetch("SELECT DISTINCT received_at FROM work")
    assert received == await gateway.owner.fetch("SELECT received_at FROM inbox")


async def test_account_and_mode_keep_events_apart(endpoints: Endpoints) -> None:
    batch = [
        delivery("evt"),
        delivery("evt", account="acct_1"),
        delivery("evt", livemode=False),
        delivery("evt"),
    ]
    async with db.connect(endpoints.database["gateway"], "gateway") as conn:
        receipts = await intake.record(conn, batch)
    assert [one.status for one in receipts] == ["new", "new", "new", "duplicate"]
    assert receipts[3].tracking_id == batch[0].tracking_id


async def test_an_identical_batch_is_recognised_as_its_own(endpoints: Endpoints) -> None:
    batch = [delivery(f"evt_{number}") for number in range(5)]
    async with db.connect(endpoints.database["gateway"], "gateway") as conn:
        first = await intake.record(conn, batch)
        second = await intake.record(conn, batch)
        assert first == second
        assert {one.status for one in second} == {"new"}
    async with db.connect(endpoints.database["owner"], "owner") as conn:
        assert await conn.fetchval("SELECT count(*) FROM work") == 5
        assert await conn.fetchval("SELECT count(*) FROM deliveries") == 0


async def test_a_connection_cut_around_the_commit_is_mended_by_repetition(
    endpoints: Endpoints,
) -> None:
    """Cut after the commit and before the answer: stored once, and answered as new."""
    cuts = 0

    async def cut_once(conn: Any, deliveries: Any) -> list[Receipt]:
        nonlocal cuts
        receipts = await intake.record(conn, deliveries)
        if not cuts:
            cuts += 1
            conn.terminate()
            raise ConnectionResetError("cut")
        return receipts

    rung: set[int] = set()
    batcher = Intake(endpoints.database["gateway"], timeout_s=5, ring=rung.update, record=cut_once)
    receipts = await asyncio.gather(
        *(batcher.submit(delivery(f"evt_{number}", lane=number)) for number in range(20))
    )
    await batcher.close()
    assert cuts == 1
    assert {one.status for one in receipts} == {"new"}
    assert rung == set(range(20))
    async with db.connect(endpoints.database["owner"], "owner") as conn:
        assert await conn.fetchval("SELECT count(*) FROM inbox") == 20
        assert await conn.fetchval("SELECT count(*) FROM work") == 20


@pytest.mark.parametrize("poison", ["a\0b", "\ud800", "x" * 300])
async def test_what_the_database_refuses_stands_alone(endpoints: Endpoints, poison: str) -> None:
    """Kept as unreadable, acknowledged, and its neighbours stored as they are."""
    batch = [delivery(f"evt_{number}") for number in range(30)]
    batch[13] = delivery(poison, b"poison")
    batcher = Intake(endpoints.database["gateway"], timeout_s=5, ring=lambda lanes: None)
    receipts = await asyncio.gather(*(batcher.submit(one) for one in batch))
    await batcher.close()
    assert [one.tracking_id for one in receipts] == [one.tracking_id for one in batch]
    async with db.connect(endpoints.database["owner"], "owner") as conn:
        rows = await conn.fetch("SELECT body, unreadable FROM inbox WHERE unreadable IS NOT NULL")
        assert [bytes(row["body"]) for row in rows] == [b"poison"]
        assert await conn.fetchval("SELECT count(*) FROM inbox") == 30


async def test_crossed_duplicates_do_not_deadlock(endpoints: Endpoints) -> None:
    names = [f"evt_{number}" for number in range(100)]
    batches = [[delivery(name) for name in names[::step]] for step in (1, -1) * 5]

    async def store(batch: list[Delivery]) -> list[Receipt]:
        async with db.connect(endpoints.database["gateway"], "gateway") as conn:
            return await intake.record(conn, batch)

    receipts = [one for many in await asyncio.gather(*map(store, batches)) for one in many]
    assert sum(one.status == "new" for one in receipts) == 100
    assert len({one.tracking_id for one in receipts}) == 100


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM inbox",
        "UPDATE inbox SET body = ''",
        "SELECT body FROM inbox",
        "SELECT body FROM deliveries",
        "UPDATE ledger SET body_sha = ''",
        "DELETE FROM ledger",
        "DELETE FROM work",
        "UPDATE work SET due_at = now()",
        "SELECT * FROM grants",
        "SELECT * FROM audit",
        "SELECT * FROM tokens",
        "INSERT INTO settlements SELECT * FROM settlements",
        "UPDATE sources SET name = 'x'",
        "DELETE FROM source_secrets",
        "INSERT INTO configuration SELECT * FROM configuration",
        "SELECT make_inbox_partitions(1)",
        "CREATE TABLE mine (id integer)",
    ],
)
async def test_the_gateway_may_do_nothing_else(endpoints: Endpoints, statement: str) -> None:
    """L10, as rights of its role."""
    async with db.connect(endpoints.database["gateway"], "gateway") as conn:
        with pytest.raises(Exception, match=r"permission denied|must be owner") as caught:
            await conn.execute(statement)
        assert db.is_refused(caught.value)
