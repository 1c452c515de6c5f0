"""What a rehearsal says is what applying the events again then does, and it leaves no trace."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from shared.domain.selection import ALL
from shared.store.selecting import Selected, select_events
from tests.support.stack import Stack
from tests.support.stripe_events import event, subscription
from workers.rehearsal import Rehearsed, rehearse


async def settled(stack: Stack) -> list[Selected]:
    async with stack.crew.db.connection() as conn:
        return await select_events(conn, ALL, None, 100_000)


async def rehearsed(stack: Stack, only: Sequence[UUID] | None = None) -> Rehearsed:
    events = await settled(stack)
    wanted = [one for one in events if only is None or one.tracking_id in only]
    return await rehearse(stack.crew, wanted)


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
    found = await rehearsed(stack)
    assert found.outcomes == {
        ids[0]: ("unchanged", None),
        ids[1]: ("unchanged", None),
        ids[2]: ("parked", "needs:link"),
    }
    assert (found.changes, found.left_out, found.missed) == ([], {}, {})
    assert found.tenants == {"a", "b"}
