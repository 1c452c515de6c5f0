"""`sluice issues`: what fails, grouped by what it fails at."""

from datetime import UTC, datetime
from uuid import UUID

from shared.domain.issues import IssueKey
from shared.domain.selection import Selection, read_selection
from shared.store.issues import find_issue, list_issues
from shared.store.selecting import select_events
from tests.support.acme import add_acme
from tests.support.stack import Stack
from tests.support.stripe_events import event, subscription


async def fail(stack: Stack, tracking: UUID, *codes: str, dead: bool = False) -> None:
    """Have an unfinished event fail with these codes, one attempt each; the last one for good."""
    for number, code in enumerate(codes, start=1):
        await stack.fetch(
            "INSERT INTO attempts (tracking_id, run, number, code, error, worker)"
            " SELECT tracking_id, run, $2, $3, 'it says ' || $3, 'w1' FROM work"
            " WHERE tracking_id = $1",
            tracking, number, code,
        )  # fmt: skip
    await stack.fetch(
        "UPDATE work SET attempts = $2, due_at = now() + interval '1 hour' WHERE tracking_id = $1",
        tracking, len(codes),
    )  # fmt: skip
    if dead:
        await stack.fetch(
            "INSERT INTO settlements (tracking_id, run, source_id, status, outcome, code, error,"
            " attempts) SELECT w.tracking_id, w.run, i.source_id, 'dead', 'dead',"
            " 'attempts_exhausted', 'it says ' || $2, w.attempts"
            " FROM work w JOIN inbox i USING (tracking_id) WHERE tracking_id = $1",
            tracking, codes[-1],
        )  # fmt: skip
        await stack.fetch("DELETE FROM work WHERE tracking_id = $1", tracking)


async def receive(stack: Stack, number: int) -> UUID:
    body = event(
        "customer.subscription.created", subscription(f"sub_{number}"), event_id=f"evt_{number}"
    )
    return (await stack.receive(body))[0].tracking_id


async def test_an_issue_is_found_by_its_id_as_the_selection_of_its_dead(stack: Stack) -> None:
    await add_acme(stack)
    (unreadable,) = await stack.apply(b"{nonsense", source="acme")
    await stack.apply(
        event("customer.subscription.created", subscription("sub_5"), event_id="evt_5")
    )
    dead = [await receive(stack, number) for number in range(3)]
    for one in dead:
        await fail(stack, one, "TimeoutError", "KeyError", dead=True)
    retrying = await receive(stack, 3)
    await fail(stack, retrying, "KeyError")
    other = await receive(stack, 4)
    await fail(stack, other, "TimeoutError", dead=True)
    async with stack.owner.connection() as conn:
        found = {issue.key: issue for issue in await list_issues(conn)}
        key = IssueKey("stripe", "customer.subscription.created", "KeyError")
        assert set(found) == {
            key,
            IssueKey("stripe", "customer.subscription.created", "TimeoutError"),
            IssueKey("acme", "", "unreadable"),
        }
        issue = found[key]
        assert (issue.dead, issue.retrying) == (3, 1)
        assert issue.sample in {*dead, retrying}
        assert issue.error == "it says KeyError"
        assert issue.first_at <= issue.last_at <= datetime.now(UTC)
        assert len({one.id for one in found}) == 3

        selection = await find_issue(conn, key.id)
        assert selection is not None
        assert {one.tracking_id for one in await select_events(conn, selection, None, 10)} == {
            *dead
        }
        nothing = await find_issue(conn, IssueKey("acme", "", "unreadable").id)
        assert nothing is not None
        # A job keeps it as JSON: what has no type is not "any type".
        kept = read_selection(
            {"source": "acme", "type": "", "status": "dead", "code": "unreadable"}
        )
        assert kept == nothing
        (only,) = await select_events(conn, kept, None, 10)
        assert only.tracking_id == unreadable
        assert await find_issue(conn, "0123456789") is None
    assert isinstance(selection, Selection)
