"""What a rehearsal says is what applying the events again then does, and it leaves no trace."""

import json
import os
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest

from shared.db import Database
from shared.domain.outcomes import RetryPolicy
from shared.domain.selection import Selection
from shared.store.paging import iso
from shared.store.selecting import Selected, select_events
from tests.support.acme import add_acme
from tests.support.draw import seed_of_run
from tests.support.rehearsing import Case, drawn_bugs, drawn_catalog
from tests.support.stack import Stack
from tests.support.stripe_events import event, subscription
from workers.process import Progress, visit
from workers.rehearsal import Rehearsed, rehearse
from workers.replay import open_run


async def settled(stack: Stack, ids: Sequence[UUID]) -> list[Selected]:
    async with stack.crew.db.connection() as conn:
        return await select_events(conn, Selection(ids=tuple(ids)), None, len(ids))


def told(found: Rehearsed) -> dict[tuple[str, str], tuple[Any, Any]]:
    """(tenant, feature) → value before and after."""
    return {
        (one.tenant, one.feature): (
            one.before.value if one.before else None,
            one.after.value if one.after else None,
        )
        for one in found.changes
    }


def created(name: str, tenant: str | None = None, product: str = "prod_pro") -> bytes:
    content = subscription(f"sub_{name}", customer=f"cus_{name}", tenant=tenant, product=product)
    return event("customer.subscription.created", content)


async def test_what_was_applied_changes_nothing(stack: Stack) -> None:
    await stack.configure()
    ids = await stack.apply(created("a", "a"), created("b", "b"), created("c"))
    found = await rehearse(stack.crew, await settled(stack, ids))
    assert found.outcomes == {
        ids[0]: ("unchanged", None),
        ids[1]: ("unchanged", None),
        ids[2]: ("parked", "needs:link"),
    }
    assert (found.changes, found.left_out, found.missed) == ([], {}, {})
    assert found.tenants == {"a", "b"}


CASES = 100


async def replay_in_order(stack: Stack, events: Sequence[Selected], *, at_once: bool) -> None:
    """Open each event's next run in the order of receipt; each applied before the next, or all."""
    operator = await Database.open(stack.endpoints.database["operator"], "operator", size=1)
    try:
        for one in sorted(events):
            async with operator.transaction() as conn:
                await open_run(conn, one.tracking_id, "operator:test", "mended")
            if not at_once:
                while await visit(stack.crew, one.lane) is Progress.MORE:
                    pass
    finally:
        await operator.close()
    await stack.drain()


async def endings(stack: Stack, events: Sequence[Selected]) -> dict[UUID, tuple[str, str | None]]:
    """How the next runs have ended; of those that failed, what the first attempt came to."""
    rows = await stack.fetch(
        "SELECT z.tracking_id, z.run, z.outcome, z.code, a.code AS failed FROM settlements z"
        " LEFT JOIN attempts a ON (a.tracking_id, a.run, a.number) = (z.tracking_id, z.run, 1)"
        " WHERE z.tracking_id = ANY ($1)",
        [one.tracking_id for one in events],
    )
    found = {(row["tracking_id"], row["run"]): row for row in rows}
    came = {}
    for one in events:
        row = found[one.tracking_id, (one.run or 0) + 1]
        failed = row["failed"]
        is_failed = failed is not None
        came[one.tracking_id] = ("retrying", failed) if is_failed else (row["outcome"], row["code"])
    return came


def in_short(ending: tuple[str, str | None]) -> tuple[str, str | None]:
    """What of it does not depend on which of two events that say the same was applied first."""
    outcome, code = ending
    if outcome in ("applied", "unchanged", "superseded", "parked"):
        return "processed", None
    return outcome, code


@pytest.mark.timeout(600)
async def test_what_is_shown_is_what_happens(stack: Stack) -> None:
    """Whatever was wrong before, is wrong now, and was done in between."""
    seed = seed_of_run()
    stack.crew.retry = RetryPolicy(2, 0.01, 0.02)
    await add_acme(stack)
    await stack.configure(**drawn_catalog(random.Random(seed)))
    changed = 0
    met: Counter[str] = Counter()
    for number in range(int(os.environ.get("TEST_CASES", CASES))):
        case = Case.draw(stack, seed, number)
        say = f"TEST_SEED={seed}, case {number}"
        await case.tell()
        for _ in range(case.rng.choice([0, 1, 2])):
            await case.operate()
        # As the sweep does within a second. What a tenant that has not followed comes to on the way
        # depends on which of its objects are looked at between two events.
        await case.derive_all()
        events = await settled(stack, case.ids)
        if case.rng.random() < 0.5:
            events = case.rng.sample(events, max(1, len(events) // 2))
        with drawn_bugs(case.rng, 0.4).at_work():
            found = await rehearse(stack.crew, events)
            before = await case.entitlements()
            at_once = case.rng.random() < 0.3
            await replay_in_order(stack, events, at_once=at_once)
            after = await case.entitlements()
        expected = {
            key: (before.get(key), after.get(key))
            for key in before.keys() | after.keys()
            if before.get(key) != after.get(key)
        }
        shown = {
            (one.tenant, one.feature): tuple(
                None if each is None else json.dumps([each.value, iso(each.valid_until)])
                for each in (one.before, one.after)
            )
            for one in found.changes
        }
        assert shown == expected, say
        assert not found.left_out, say
        came = await endings(stack, events)
        if at_once:
            assert {one: in_short(each) for one, each in found.outcomes.items()} == {
                one: in_short(each) for one, each in came.items()
            }, say
        else:
            assert found.outcomes == came, say
        changed += len(expected)
        met.update(outcome for outcome, _ in came.values())
    assert changed, f"TEST_SEED={seed}"
    assert met.keys() >= {"applied", "unchanged", "parked", "ignored", "retrying"}, met
