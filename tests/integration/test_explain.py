"""What is explained is what was received, decided and recorded; now, and as it was."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared import db
from shared.domain.moments import written
from shared.explain import MomentError, explain
from tests.support.stack import Stack
from tests.support.stripe_events import (
    NOW_S,
    charge,
    customer,
    dispute,
    event,
    invoice,
    invoice_payment,
    purchase,
    refund,
    session,
    subscription,
)
from workers.granting import give, revoke
from workers.link import link
from workers.merge import merge
from workers.sweep import derive_again

DAY_S = 86_400
PLANS = {
    "pro": {"products": ["stripe:prod_pro"], "features": {"seats": 10, "sso": True}},
    "team": {"products": ["stripe:prod_team"], "features": {"seats": 20}},
    "pass": {"products": ["stripe:plink_pass"], "features": {"archive": True}},
}
ADDED = {"seats": {"combine": "sum"}}
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


async def ask(
    stack: Stack, feature: str = "seats", at: str | None = None, tenant: str = "acme"
) -> dict[str, Any]:
    """As the read API does, in its role."""
    async with db.connect(stack.endpoints.database["reader"], "reader") as conn:
        found = await explain(conn, tenant, feature, at)
    assert found is not None
    return found


def said(found: dict[str, Any]) -> str:
    """The prose without line ends."""
    return " ".join(found["text"].split())


def reasons(found: dict[str, Any]) -> dict[str, str]:
    return {one["object"]["object"]: one["reason"] for one in found["notGiving"]}


@asynccontextmanager
async def operating(stack: Stack) -> AsyncIterator[db.Conn]:
    """A transaction in the operators' role."""
    url = stack.endpoints.database["operator"]
    async with db.connect(url, "operator") as conn, conn.transaction():
        yield conn


async def by_hand(stack: Stack, value: Any, until: timedelta | None = None) -> int:
    async with operating(stack) as conn:
        given = await give(conn, "acme", "seats", value, until, "operator:ana", "pilot extension")
    return given.grant.id


async def moment(stack: Stack) -> str:
    at: datetime = await stack.value("SELECT clock_timestamp()")
    return at.isoformat()


def disputed(number: str = "2", days_ago: int = 1) -> list[bytes]:
    """The payment of a subscription's invoice, and the dispute of it."""
    paid_s, disputed_s = NOW_S - 20 * DAY_S, NOW_S - days_ago * DAY_S
    ids = {"payment_intent": f"pi_{number}"}
    return [
        event(
            "invoice.paid", invoice(f"in_{number}", subscription=f"sub_{number}"), created=paid_s
        ),
        event(
            "invoice_payment.paid",
            invoice_payment(f"ip_{number}", invoice=f"in_{number}", **ids),
            created=paid_s,
        ),
        event("charge.succeeded", charge(f"ch_{number}", **ids), created=paid_s),
        event(
            "charge.dispute.created",
            dispute(f"dp_{number}", charge=f"ch_{number}", **ids),
            created=disputed_s,
            event_id=f"evt_dispute_{number}",
        ),
    ]


async def test_two_subscriptions_a_dispute_a_grace_period_and_a_grant_by_hand(
    stack: Stack,
) -> None:
    await stack.configure(plans=PLANS, features=ADDED)
    owner = {"tenant": "acme"}
    first, failed = (
        subscription("sub_1", **owner),
        subscription("sub_1", status="past_due", **owner),
    )
    second = subscription("sub_2", product="prod_team", **owner)
    begun_s, failed_s = NOW_S - 400 * DAY_S, NOW_S - 2 * DAY_S
    await stack.apply(
        event("customer.subscription.created", first, created=begun_s, event_id="evt_first"),
        event("customer.subscription.updated", failed, created=failed_s, event_id="evt_failed"),
        event("customer.subscription.created", second, created=begun_s + 1, event_id="evt_second"),
        *disputed(),
    )
    await by_hand(stack, 5, timedelta(days=40))
    found = await ask(stack)
    assert found["value"] == 15
    assert await stack.features("acme") == {"seats": 15, "sso": True}
    gift = await stack.value("SELECT valid_until FROM manual_grants")
    grace = datetime.fromtimestamp(failed_s + 7 * DAY_S, UTC)
    opened = datetime.fromtimestamp(NOW_S - DAY_S, UTC)
    why, not_counted, changes, behind, record = found["text"].split("\n\n")[1:]
    assert found["text"].startswith("acme may use seats: 15.\n\nWhy, added up:\n- 10 from plan pro")
    assert " ".join(why.split()) == (
        "Why, added up:"
        " - 10 from plan pro, by subscription sub_1 (source stripe): past due since"
        f" {written(datetime.fromtimestamp(failed_s, UTC))} (event evt_failed), in its 7-day grace"
        f" period until {written(grace)}."
        f" - 5 given by operator ana on {written(datetime.now(UTC))}, until {written(gift)}:"
        ' "pilot extension".'
    )
    assert " ".join(not_counted.split()) == (
        "Not counted:"
        " - subscription sub_2 (source stripe) would give 20 by plan team: its payment is"
        f" contested: dispute dp_2 has been open since {written(opened)}"
        " (event evt_dispute_2)."
    )
    assert " ".join(changes.split()) == (
        "What would change it:"
        f" - {written(grace)}: the 7-day grace period of subscription sub_1 ends, unless it is paid"
        " before. Then acme may use seats: 5."
        f" - {written(gift)}: what operator ana gave ends. Then acme may not use seats."
        " - When dispute dp_2 comes to nothing, subscription sub_2 counts again."
    )
    ids = [found["trackingId"] for found in found["evidence"]["events"]]
    rows = await stack.fetch("SELECT tracking_id, event_id, event_type FROM inbox")
    names = {str(row["tracking_id"]): (row["event_id"], row["event_type"]) for row in rows}
    assert [names[one] for one in ids] == [
        ("evt_dispute_2", "charge.dispute.created"),
        ("evt_failed", "customer.subscription.updated"),
        ("evt_second", "customer.subscription.created"),
        ("evt_first", "customer.subscription.created"),
    ]
    assert [_ID.search(line) for line in behind.split("- event ")[1:]].count(None) == 0
    assert found["record"]["actor"] == "operator:ana"
    assert record.startswith("It has been so since ")
    assert "because of what operator ana did" in " ".join(record.split())
    stored = await stack.value(
        "SELECT encode(hash, 'hex') FROM audit WHERE feature = 'seats' ORDER BY id DESC LIMIT 1"
    )
    assert found["record"]["hash"] == stored
    assert max(map(len, found["text"].splitlines())) <= 80


async def test_the_dispute_is_won_and_it_counts_again(stack: Stack) -> None:
    await stack.configure(plans=PLANS, features=ADDED)
    second = subscription("sub_2", product="prod_team", tenant="acme")
    await stack.apply(event("customer.subscription.created", second))
    await stack.apply(*disputed())
    assert reasons(await ask(stack)) == {"subscription/sub_2": "held"}
    held_at = await moment(stack)
    won = dispute("dp_2", charge="ch_2", payment_intent="pi_2", status="won")
    await stack.apply(event("charge.dispute.closed", won))
    found = await ask(stack)
    assert (found["value"], found["notGiving"]) == (20, [])
    before = await ask(stack, at=held_at)
    assert (before["value"], before["notes"]) == (None, [])
    assert reasons(before) == {"subscription/sub_2": "held"}
    assert before["record"]["action"] == "entitlement.revoked"


# As it was ----------------------------------------------------------------------------------------


async def test_the_past_is_told_as_it_was_known_then(stack: Stack) -> None:
    nobody = await moment(stack)
    created = subscription("sub_1", tenant="acme")
    await stack.apply(event("customer.subscription.created", created, event_id="evt_1"))
    ten = await moment(stack)
    ended = subscription("sub_1", tenant="acme", status="canceled")
    # It happened long before: what counts is when it was known.
    await stack.apply(
        event("customer.subscription.deleted", ended, event_id="evt_2", created=NOW_S - 9)
    )
    gone = await ask(stack)
    assert (gone["value"], reasons(gone)) == (None, {"subscription/sub_1": "ended"})
    before = await ask(stack, at=ten)
    assert (before["tense"], before["value"], before["notes"]) == ("past", 10, [])
    assert before["record"]["eventId"] == "evt_1"
    assert [one["eventId"] for one in before["evidence"]["events"]] == ["evt_1"]
    assert before["because"][0]["object"]["status"] == "active"
    assert said(before).startswith(
        f"On {written(datetime.fromisoformat(ten))} acme could use seats: 10."
    )
    never = await ask(stack, at=nobody)
    assert (never["value"], never["notes"]) == (None, ["nothing_known"])
    assert (await ask(stack, at="48h"))["notes"] == ["nothing_known"]


async def test_the_catalog_of_then_counts(stack: Stack) -> None:
    await stack.apply(event("customer.subscription.created", subscription(tenant="acme")))
    then = await moment(stack)
    await stack.configure(
        plans={"pro": {"products": ["stripe:prod_pro"], "features": {"seats": 3}}}
    )
    pending = await ask(stack)
    assert (pending["value"], pending["notes"]) == (10, ["recomputing"])
    assert "It is being recomputed with version 2" in said(pending)
    between = await moment(stack)
    await derive_again(stack.crew, "acme")
    now = await ask(stack)
    assert (now["value"], now["catalogVersion"], now["notes"]) == (3, 2, [])
    assert "because of catalog version 2" in said(now)
    for at in (then, between):
        found = await ask(stack, at=at)
        assert (found["value"], found["catalogVersion"], found["notes"]) == (10, 1, [])
    assert (await ask(stack, "sso", at=then))["value"] is True


async def test_what_an_operator_gave_and_took_back(stack: Stack) -> None:
    number = await by_hand(stack, 5)
    had = await moment(stack)
    async with operating(stack) as conn:
        await revoke(conn, "acme", number, "operator:bo", "it is over")
    now = await ask(stack)
    assert (now["value"], now["notGiving"][0]["reason"]) == (None, "revoked")
    assert "was revoked by operator bo on" in said(now)
    before = await ask(stack, at=had)
    assert (before["value"], before["notes"], before["notGiving"]) == (5, [], [])
    assert before["because"][0]["operator"]["reason"] == "pilot extension"


async def test_whose_a_customer_was(stack: Stack) -> None:
    await stack.apply(event("customer.subscription.created", subscription()))
    await _link(stack, "acme")
    ours = await moment(stack)
    await _link(stack, "other")
    now = await ask(stack)
    assert (now["value"], now["notGiving"]) == (None, [])
    assert (await ask(stack, tenant="other"))["value"] == 10
    before = await ask(stack, at=ours)
    assert (before["value"], before["notes"]) == (10, [])
    assert before["because"][0]["object"]["object"] == "subscription/sub_1"
    theirs = await ask(stack, at=ours, tenant="other")
    assert theirs["notes"] == ["nothing_known"]


async def _link(stack: Stack, tenant: str) -> None:
    async with operating(stack) as conn:
        await link(conn, "stripe", "", "cus_1", tenant, "operator:ada", None)


async def test_erased_content_is_said_and_the_rest_still_told(stack: Stack) -> None:
    await stack.apply(event("customer.subscription.created", subscription(tenant="acme")))
    then = await moment(stack)
    async with stack.owner.connection() as conn:
        await conn.execute(
            "UPDATE audit_content SET salt = NULL, before = NULL, after = NULL, reason = NULL"
        )
    found = await ask(stack, at=then)
    assert (found["value"], found["notes"]) == (10, ["erased"])
    assert found["record"]["isErased"]


async def test_a_record_that_cannot_be_told_from_the_objects_any_more(stack: Stack) -> None:
    """As after a replay, which replaces what an earlier run observed."""
    await stack.apply(event("customer.subscription.created", subscription(tenant="acme")))
    then = await moment(stack)
    await stack.fetch("DELETE FROM observations")
    found = await ask(stack, at=then)
    assert (found["value"], found["notes"], found["because"]) == (10, ["disagrees"], [])


async def test_the_future_is_told_from_today(stack: Stack) -> None:
    ends = NOW_S + 30 * DAY_S
    await stack.apply(
        event("customer.subscription.created", subscription(tenant="acme", cancel_at=ends))
    )
    at = datetime.fromtimestamp(ends, UTC)
    later = await ask(stack, at=at.isoformat())
    assert (later["tense"], later["value"]) == ("future", None)
    assert reasons(later) == {"subscription/sub_1": "cancelled"}
    earlier = await ask(stack, at=(at - timedelta(seconds=1)).isoformat())
    assert earlier["value"] == 10
    assert said(earlier).startswith("By what is known now, on ")
    assert earlier["changes"][0]["at"] == at.isoformat().replace("+00:00", "Z")


# What waits ---------------------------------------------------------------------------------------


async def test_what_is_undecided_is_provisional(stack: Stack) -> None:
    second = NOW_S - 100
    away, home = subscription(tenant="acme", status="past_due"), subscription(tenant="acme")
    await stack.apply(
        event("customer.subscription.updated", away, created=second, event_id="evt_1"),
        event("customer.subscription.updated", home, created=second, event_id="evt_2"),
    )
    found = await ask(stack)
    assert (found["value"], found["isProvisional"]) == (10, True)
    assert found["provisional"][0]["wants"] == "order"
    assert "two changes of it came in the same second" in said(found)


async def test_each_reason_to_wait_is_told(stack: Stack) -> None:
    await stack.configure({"stripe": True, "sandbox": False}, plans=PLANS)
    created = "customer.subscription.created"
    mine: dict[str, Any] = {"tenant": "acme"}
    chargeless = dispute("dp_9", charge="ch_9", payment_intent="pi_9")
    await stack.apply(
        event(created, subscription("sub_chat", product="prod_chat", **mine)),
        event(created, subscription("sub_nobodys")),
        event("charge.succeeded", charge("ch_9", payment_intent="pi_9")),
        event("charge.dispute.created", chargeless),
        event("checkout.session.completed", purchase(reference="acme", payment_link="plink_x")),
    )
    sandboxed = subscription("sub_test", customer="cus_test", **mine)
    await stack.apply(event(created, sandboxed, livemode=False), source="sandbox")
    found = await ask(stack)
    assert reasons(found) == {
        "subscription/sub_chat": "needs:mapping",
        "checkout.session/cs_1": "needs:line_items",
        "subscription/sub_test": "other_mode",
    } | ({"subscription/sub_nobodys": "needs:link"} if found["value"] is None else {})
    assert found["value"] == 10  # the buyer's own word links the customer
    assert [one["object"] for one in found["loose"]] == ["dispute/dp_9"]
    assert "What its payment was for is not known yet" in said(found)


async def test_what_nobody_links_is_told_where_its_customer_is_ours(stack: Stack) -> None:
    created = "customer.subscription.created"
    await stack.apply(
        event(created, subscription("sub_1", product="prod_basic", tenant="acme")),
        event(created, subscription("sub_2")),
    )
    found = await ask(stack)
    assert (found["value"], reasons(found)) == (1, {"subscription/sub_2": "needs:link"})
    await stack.apply(
        event("checkout.session.completed", session("cs_1", reference="acme")),
        event("checkout.session.completed", session("cs_2", reference="other")),
    )
    assert reasons(await ask(stack)) == {"subscription/sub_2": "link_conflict"}


async def test_a_purchase_is_taken_back(stack: Stack) -> None:
    await stack.configure(plans=PLANS)
    bought = purchase(customer=None, reference="acme", payment_link="plink_pass")
    await stack.apply(
        event("checkout.session.completed", bought),
        event("charge.succeeded", charge(customer=None, amount=4900)),
    )
    assert said(await ask(stack, "archive")).startswith(
        "acme may use archive. Why: - plan pass, by"
    )
    then = await moment(stack)
    await stack.apply(event("refund.created", refund(amount=4900), event_id="evt_refund"))
    found = await ask(stack, "archive")
    assert reasons(found) == {"checkout.session/cs_1": "reversed"}
    assert "its payment was taken back: refund re_1 was made on" in said(found)
    assert "(event evt_refund)" in said(found)
    assert (await ask(stack, "archive", at=then))["value"] is True


# How it is read -----------------------------------------------------------------------------------


async def test_nothing_is_waited_for(stack: Stack) -> None:
    """A worker may hold every lock there is: an explanation takes none."""
    await stack.apply(event("customer.subscription.created", subscription(tenant="acme")))
    async with stack.owner.transaction() as conn:
        for table in ("tenants", "customers", "objects", "lanes"):
            await conn.execute(f"SELECT FROM {table} FOR UPDATE")
        assert (await ask(stack))["value"] == 10


async def test_it_is_all_of_one_moment(stack: Stack) -> None:
    """What is committed while it is read is not in it, in no part."""
    await stack.apply(event("customer.subscription.created", subscription(tenant="acme")))
    async with db.connect(stack.endpoints.database["reader"], "reader") as conn:
        slow = _Meddling(conn, stack)
        found = await explain(slow, "acme", "seats")
    assert found is not None
    assert (found["value"], found["notes"], found["evidence"]["total"]) == (10, [], 1)
    assert await stack.features("acme") == {}


class _Meddling:
    """A connection beside which a subscription is cancelled after the first read."""

    def __init__(self, conn: Any, stack: Stack) -> None:
        self._conn = conn
        self._stack = stack
        self._reads = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._conn, name)

    async def fetchrow(self, *args: Any) -> Any:
        row = await self._conn.fetchrow(*args)
        self._reads += 1
        if self._reads == 1:
            ended = subscription(tenant="acme", status="canceled")
            await self._stack.apply(event("customer.subscription.deleted", ended))
        return row


async def test_who_is_not_there(stack: Stack) -> None:
    async with db.connect(stack.endpoints.database["reader"], "reader") as conn:
        assert await explain(conn, "nobody", "seats") is None
        assert await explain(conn, "a\0b", "seats") is None
        with pytest.raises(MomentError):
            await explain(conn, "nobody", "seats", "soon")
    await stack.apply(event("customer.subscription.created", subscription(tenant="acme")))
    found = await ask(stack, "seatz")
    assert (found["value"], found["isKnown"], found["features"]) == (None, False, ["seats", "sso"])


async def test_a_merged_tenant_is_explained_by_what_it_was_merged_into(stack: Stack) -> None:
    await stack.apply(
        event("customer.subscription.created", subscription("sub_1", tenant="old")),
        event("customer.created", customer("cus_2", tenant="new")),
    )
    before = await moment(stack)
    async with operating(stack) as conn:
        await give(conn, "old", "seats", 12, None, "operator:ana", "pilot")
    given_at = await moment(stack)
    async with operating(stack) as conn:
        await merge(conn, "old", "new", "operator:ana", "one company")
    for name in ("old", "new"):
        now = await ask(stack, tenant=name)
        assert (now["tenant"], now["value"]) == ("new", 12)
        assert now["mergedFrom"] == (name if name == "old" else None)
        assert now["notes"] == []
    assert (await ask(stack, tenant="old"))["text"].startswith("old was merged into new on ")
    then = await ask(stack, tenant="old", at=before)
    assert (then["tenant"], then["value"], then["notes"]) == ("old", 10, [])
    then = await ask(stack, tenant="old", at=given_at)
    assert (then["value"], then["notes"], len(then["because"])) == (12, [], 2)
    assert (await ask(stack, tenant="new", at=given_at))["because"] == []
    assert (await ask(stack, tenant="new", at=before))["value"] is None
