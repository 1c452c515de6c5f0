"""What `sluice status` finds, in a database of any size."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from shared import db
from shared.db import Conn
from shared.store import status
from shared.store.status import SESSION, look
from tests.integration.test_silence import sweep_of
from tests.support.stack import Stack
from tests.support.stripe_events import event, subscription
from workers.overview import Doorbell, Overview, overview, processes_of, shown

FILL = """
WITH made AS MATERIALIZED (
    SELECT n, gen_random_uuid() AS id, now() - n * interval '3 milliseconds' AS at
    FROM generate_series(1, 1100000) AS n
), received AS (
    INSERT INTO inbox (received_at, tracking_id, source_id, account, livemode, event_id,
                       event_type, subject, lane, secret, headers, body, trace_context)
    SELECT at, id, $1::smallint, '', true, n::text, 'customer.updated', 's', $2::integer + n % 16,
           '0.1', '[]', '{}', '' FROM made
), settled AS (
    INSERT INTO settlements (tracking_id, run, source_id, status, outcome, code, attempts,
                             settled_at)
    SELECT id, 1, $1::smallint, CASE WHEN n % 100 = 0 THEN 'dead' ELSE 'processed' END,
           CASE WHEN n % 100 = 0 THEN 'dead' ELSE 'applied' END,
           CASE WHEN n % 100 = 0 THEN 'bug' END, 1, at
    FROM made WHERE n > 100000 ORDER BY n DESC
), told AS (
    INSERT INTO audit (chain, position, previous_hash, hash, cause, cause_id, run, tenant, step,
                       action, actor, source, subject, feature, catalog_version, xid, at)
    SELECT id::text, 1, '', '', 'event', id::text, 1, '', 0, 'applied', 'x', '', '', '', 0, '1', at
    FROM made WHERE n > 100000 ORDER BY n DESC
)
INSERT INTO work (tracking_id, received_at, lane, attempts, due_at)
SELECT id, at, $2::integer + n % 16, n % 2, CASE WHEN n % 2 = 1 THEN now() END
FROM made WHERE n <= 100000 ORDER BY n DESC
"""


@asynccontextmanager
async def operating(stack: Stack) -> AsyncIterator[Conn]:
    url = stack.endpoints.database["operator"]
    async with db.connect(url, "operator", settings=SESSION) as conn:
        yield conn


async def seen(stack: Stack) -> Overview:
    async with operating(stack) as conn:
        return overview(datetime.now(UTC), await look(conn), None, Doorbell(None, 0))


async def test_a_million_settled_and_a_hundred_thousand_waiting(stack: Stack) -> None:
    """Well under 100 ms of the database's time; the best of a few, for the machine is shared."""
    first = (await stack.lanes())[0]
    async with stack.owner.connection() as conn:
        await conn.execute("SET statement_timeout = 0")
        await conn.execute(FILL, stack.sources["stripe"], first, timeout=600)
    spent_s = []
    async with operating(stack) as conn:
        for _ in range(12):
            began = time.perf_counter()
            found = await look(conn)
            spent_s.append(time.perf_counter() - began)
    row = next(one for one in found.sources if one["source"] == "stripe")
    assert (row["events"], row["retrying"]) == (100_000, 50_000)
    assert 300 - 1 < row["oldest_s"] < 300 + 600  # and as long as it took to fill
    assert sum(one["events"] for one in found.dead) == status.DIED
    assert found.dead[0]["more"]
    assert min(spent_s) < 0.1, spent_s
    # Somebody has all of them applied again: each has to be looked up.
    async with stack.owner.connection() as conn:
        await conn.execute(
            "INSERT INTO settlements (tracking_id, run, source_id, status, outcome, attempts)"
            " SELECT tracking_id, 2, source_id, 'processed', 'applied', 1 FROM settlements"
            " WHERE status = 'dead'",
            timeout=600,
        )
    spent_s = []
    async with operating(stack) as conn:
        for _ in range(6):
            began = time.perf_counter()
            found = await look(conn)
            spent_s.append(time.perf_counter() - began)
    assert found.dead == []
    assert min(spent_s) < 0.3, spent_s


async def test_what_was_applied_again_does_not_hide_what_is_dead_still(stack: Stack) -> None:
    """Of one source a thousand died last, and were mended; of the other three, an hour before."""
    await stack.add_source("other", "stripe", True)
    async with stack.owner.connection() as conn:
        await conn.execute(
            "INSERT INTO settlements (tracking_id, run, source_id, status, outcome, code, attempts,"
            " settled_at) SELECT gen_random_uuid(), 1,"
            " CASE WHEN n > 1000 THEN $2::smallint ELSE $1::smallint END, 'dead', 'dead', 'bug', 1,"
            " now() - n * interval '1 second' FROM generate_series(1, 1003) AS n",
            stack.sources["stripe"],
            stack.sources["other"],
        )
        await conn.execute(
            "INSERT INTO settlements (tracking_id, run, source_id, status, outcome, attempts)"
            " SELECT tracking_id, 2, source_id, 'processed', 'applied', 1 FROM settlements"
            " WHERE source_id = $1",
            stack.sources["stripe"],
        )
    found = await seen(stack)
    assert any("3 events of other are dead" in one.text for one in found.problems), found.problems


async def test_every_problem_has_its_line(stack: Stack) -> None:
    """Each is made in the database, and found; all of them lead on to something."""
    await stack.configure({"stripe": True, "other": True, "slow": True})
    (tracking,) = await stack.apply(event("customer.subscription.created", subscription("sub_2")))
    await stack.receive(event("customer.subscription.created", subscription()), source="other")
    await stack.receive(event("customer.subscription.created", subscription()), source="slow")
    for statement in (
        "UPDATE sources SET paused_at = now() - interval '2 days', paused_by = 'operator:ada'"
        " WHERE name = 'other'",
        "UPDATE work SET received_at = now() - interval '11 minutes'",
        "INSERT INTO settlements (tracking_id, run, source_id, status, outcome, code, attempts,"
        " settled_at) SELECT tracking_id, 2, source_id, 'dead', 'dead', 'bug', 1,"
        " now() - interval '2 hours' FROM settlements",
        "UPDATE objects SET parked = 'needs:mapping', parked_at = now() - interval '10 minutes'",
        "INSERT INTO rhythms SELECT id, now() - interval '9 days', now() - interval '3 days',"
        " '1 day', 20, now() FROM sources WHERE name = 'stripe'",
        "INSERT INTO messages VALUES (1, 'slack', 'k', gen_random_uuid(), '{}'),"
        " (2, 'slack', 'l', gen_random_uuid(), '{}')",
        "INSERT INTO sendings VALUES (1, 'slack', 'dead', 'x', 'x', 1)",
        "INSERT INTO outbox (message, handler, entered_at)"
        " VALUES (2, 'slack', now() - interval '1 hour')",
    ):
        await stack.fetch(statement)
    found = await seen(stack)
    said = {f"{one.severity}: {one.text}": one.command for one in found.problems}
    assert said == {
        "broken: no gateway is connected: nothing is received": "sluice gateway",
        "broken: no worker is connected: nothing is applied": "sluice worker",
        "broken: the oldest unfinished event of slow waits for 11 min": (
            "sluice events list --status received --source slow"
        ),
        "attention: 1 event of stripe is dead, for 2 h": "sluice issues list",
        "attention: 1 object of stripe waits: needs:mapping, for 10 min": (
            "sluice parked list --source stripe"
        ),
        "attention: other has been paused for 2 d": "sluice sources resume other --reason …",
        "attention: stripe has been silent for 3 d, longer than ever (24 h)": (
            "sluice sources list"
        ),
        "attention: 1 message of slack is dead": (
            "sluice outbox list --state dead --handler slack"
        ),
        "attention: a message of slack has waited for 60 min": (
            "sluice outbox list --handler slack"
        ),
    }
    assert found.verdict == "broken"
    # Applied again, it is dead no more; nor is it once its replay waits.
    await stack.fetch(
        "INSERT INTO work (tracking_id, received_at, lane, run)"
        " SELECT $1, now(), lane, 3 FROM inbox WHERE tracking_id = $1", tracking,
    )  # fmt: skip
    assert not (await seen(stack)).looked.dead  # type: ignore[union-attr] # Postgres answered


async def test_what_is_refused_at_the_door_is_told(stack: Stack) -> None:
    """A forger is a note. Who holds one of our secrets and is refused is somebody's money."""
    await stack.configure({"stripe": True, "other": True})
    await stack.fetch(
        "INSERT INTO refusals (source_id, place, id, refused_at, kind, address, code, cause, hint,"
        " headers, trace_id) SELECT s.id, r.place, gen_random_uuid(), now() - r.ago, 'webhook',"
        " '192.0.2.1', 'wrong_signature', r.cause, 'h', '[]', 't' FROM sources AS s"
        " JOIN (VALUES ('stripe', 0, interval '5 minutes', 'signature_mismatch'),"
        " ('stripe', 1, interval '6 minutes', 'body_changed'),"
        " ('stripe', 2, interval '61 minutes', 'clock_off'),"
        " ('other', 0, interval '5 minutes', 'signature_mismatch'),"
        " ('other', 1, interval '9 minutes', 'missing_header')) AS r (source, place, ago, cause)"
        " ON r.source = s.name"
    )
    found = await seen(stack)
    told = [
        (one.severity, one.text, one.command) for one in found.problems if "refused" in one.text
    ]
    assert told == [
        (
            "attention",
            "1 request to stripe was refused, with a secret of ours",
            "sluice requests list --source stripe --since 1h",
        ),
        (
            "note",
            "2 requests to other were refused in 1 h, 5 min ago",
            "sluice requests list --source other --since 1h",
        ),
    ]


async def test_a_retried_event_is_told_from_one_that_waits(stack: Stack) -> None:
    await stack.receive(event("customer.subscription.created", subscription()))
    await stack.fetch(
        "UPDATE work SET attempts = 1, due_at = now(), received_at = now() - interval '1 hour'"
    )
    texts = [one.text for one in (await seen(stack)).problems]
    assert "1 event of stripe failed and is tried again, for 60 min" in texts


async def test_rates_beyond_what_is_counted_are_the_sweeps(stack: Stack) -> None:
    """Exact by counting while there are few; of many, the tallies; without them, nothing."""
    await stack.apply(
        *(event("customer.subscription.created", subscription(f"sub_{n}")) for n in range(30))
    )
    looked = (await seen(stack)).looked
    assert looked is not None
    assert looked.received == looked.settled == (30, 30, 30)
    counted = {"looked_at": status.COUNTED, "back_to": looked.now, "minute": 1,
               "five_minutes": 2, "hour": 3}  # fmt: skip
    assert status._window(counted, {}, "settled", looked.now) == (None, None, None)
    await stack.fetch(
        "INSERT INTO tallies (minute, audit_id, received, settled)"
        " SELECT date_trunc('minute', now()) - n * interval '1 minute', 0, 10 * n, n"
        " FROM generate_series(1, 10) AS n"
    )
    async with operating(stack) as conn:
        tallies = {row["minutes"]: row for row in await conn.fetch(status.READ_TALLIES)}
    assert status._window(counted, tallies, "settled", looked.now) == (1, 15, None)
    assert status._window(counted, tallies, "received", looked.now) == (10, 150, None)


async def test_processes_are_told_by_kind(stack: Stack) -> None:
    names = ["sluice worker-1", "sluice worker-1", "sluice worker-2", "sluice jobs-host-7",
             "sluice solitary-host-8", "sluice-gateway-sources", "sluice-gateway-intake",
             "sluice-cli", "psql"]  # fmt: skip
    url = stack.endpoints.database["worker"]
    opened: list[Any] = [await db.open_connection(url, "worker", name=name) for name in names]
    try:
        async with operating(stack) as conn:
            found = processes_of(await look(conn))
    finally:
        for conn in opened:
            await conn.close()
    assert found == {"gateway": 1, "worker": 2, "solitary": 1, "jobs": 1}


async def test_workers_that_are_stopped_are_not_well_because_they_are_connected(
    stack: Stack,
) -> None:
    """The kernel keeps the connections of a process that is stopped; its sweep is silent."""
    url = stack.endpoints.database["worker"]
    names = ("sluice worker-1", "sluice worker-2", "sluice solitary-1", "sluice jobs-1",
             "sluice-gateway-sources")  # fmt: skip
    opened: list[Any] = [await db.open_connection(url, "worker", name=name) for name in names]
    try:
        # As a worker's sweep does it, within a minute.
        await sweep_of(stack).listen()
        found = await seen(stack)
        assert (found.verdict, shown(found)["processes"]["worker"]) == ("ok", 2), found.problems
        assert shown(found)["workersHeardS"] < 60
        for minutes, verdict in ((2, "ok"), (4, "broken"), (25, "broken")):
            await stack.fetch(
                "UPDATE listening SET tried_at = now() - $1 * interval '1 minute',"
                " looked_at = now() - $1 * interval '1 minute'", minutes,
            )  # fmt: skip
            found = await seen(stack)
            assert found.verdict == verdict, found.problems
            if verdict == "broken":
                assert [(one.text, one.command) for one in found.problems] == [
                    (
                        "2 workers are connected, and none was heard of for"
                        f" {minutes} min: nothing is applied",
                        "sluice worker",
                    )
                ]
        # One goes on, and takes its turn at once.
        await sweep_of(stack).listen()
        assert (await seen(stack)).verdict == "ok"
    finally:
        for conn in opened:
            await conn.close()


async def test_a_transaction_that_stays_open_is_named(stack: Stack) -> None:
    url = stack.endpoints.database["worker"]
    async with db.connect(url, "worker", name="sluice forgotten") as holder, holder.transaction():
        await holder.execute("SELECT 1")
        async with operating(stack) as conn:
            found = (await look(conn)).oldest
    assert found is not None
    assert found["name"] == "sluice forgotten"
    assert found["transaction_s"] >= 0
