"""`sluice outbox`: what waits, what is dead, and what operators say about it."""

import json
from uuid import UUID, uuid4

from shared.store.outbox import NewMessage, add_messages, claim, put_off, settle
from tests.cli.conftest import Sluice
from tests.support.stack import Stack

EVENT = uuid4()


async def put(stack: Stack, *keys: str, handler: str = "slack", event: UUID = EVENT) -> None:
    async with stack.crew.db.transaction() as conn:
        await add_messages(
            conn, [NewMessage(key, handler, event, json.dumps({"k": key}).encode()) for key in keys]
        )


async def end(stack: Stack, count: int, outcome: str, handler: str = "slack") -> None:
    """What becomes of the messages that wait longest."""
    async with stack.crew.db.transaction() as conn:
        for lease in await claim(conn, handler, count, uuid4(), 60):
            if outcome == "retrying":
                assert await put_off(
                    conn, lease, attempts=1, delay_s=900, code="failed", error="503"
                )
            elif outcome == "sent":
                assert await settle(conn, lease, "sent", attempts=1)
            else:
                assert await settle(conn, lease, "dead", attempts=4, code="gone", error="410 Gone")


async def listed(sluice: Sluice, *options: str) -> list[tuple[str, str]]:
    items = (await sluice("outbox", "list", "--json", *options)).json["items"]
    return [(item["key"], item["state"]) for item in items]


async def test_messages_are_listed_by_what_became_of_them(sluice: Sluice, stack: Stack) -> None:
    await put(stack, "a", "b", "c", "d")
    await end(stack, 1, "sent")
    await end(stack, 1, "dead")
    await end(stack, 1, "retrying")
    other = uuid4()
    await put(stack, "a", handler="mail", event=other)
    everything = [
        ("a", "waiting"), ("d", "waiting"), ("c", "retrying"), ("b", "dead"), ("a", "sent"),
    ]  # fmt: skip
    assert await listed(sluice) == everything
    for state in ("waiting", "retrying", "dead", "sent", "dropped"):
        expected = [one for one in everything if one[1] == state]
        assert await listed(sluice, "--state", state) == expected
    assert await listed(sluice, "--handler", "mail") == everything[:1]
    assert await listed(sluice, "--state", "waiting", "--handler", "slack") == everything[1:2]
    assert await listed(sluice, "--event", str(other)) == everything[:1]
    said = await sluice("outbox", "list", "--state", "gone")
    assert said.code == 2
    assert "waiting, retrying" in said.err


async def test_pages_end(sluice: Sluice, stack: Stack) -> None:
    await put(stack, *"abcdefg")
    for state in ([], ["--state", "waiting"]):
        seen, cursor = [], None
        while True:
            options = [*state, "--limit", "3", *(["--cursor", cursor] if cursor else [])]
            page = (await sluice("outbox", "list", "--json", *options)).json
            seen += [item["key"] for item in page["items"]]
            cursor = page["next"]
            if cursor is None:
                break
        assert seen == list("gfedcba")
    assert (await sluice("outbox", "list", "--cursor", "nonsense")).code == 2


async def test_a_message_is_shown_with_its_key_and_what_it_says(
    sluice: Sluice, stack: Stack
) -> None:
    await put(stack, "a")
    await end(stack, 1, "dead")
    shown = (await sluice("outbox", "show", "1", "--json")).json
    assert shown["idempotencyKey"] == "slack:a"
    assert shown["payload"] == {"k": "a"}
    assert (shown["state"], shown["code"], shown["error"]) == ("dead", "gone", "410 Gone")
    assert shown["trackingId"] == str(EVENT)
    assert "410 Gone" in (await sluice("outbox", "show", "1")).out
    assert (await sluice("outbox", "show", "2")).code == 3


async def test_a_dead_message_is_retried_under_its_key_and_audited(
    sluice: Sluice, stack: Stack
) -> None:
    await put(stack, "a", "b")
    await end(stack, 1, "dead")
    await end(stack, 1, "retrying")
    said = await sluice("outbox", "retry", "1", "2", "--reason", "it is back", "--json")
    assert said.json["retried"] == 2
    rows = await stack.fetch("SELECT message, attempts, due_at <= now() AS due FROM outbox")
    assert [tuple(row) for row in rows] == [(1, 0, True), (2, 1, True)]
    assert await stack.value("SELECT count(*) FROM sendings") == 0
    (record,) = await stack.fetch(
        "SELECT a.*, c.before, c.after, c.reason FROM audit a JOIN audit_content c"
        " ON c.audit_id = a.id WHERE action = 'message.retried'"
    )
    assert record["actor"] == "operator:ada"
    assert record["cause_id"] == said.json["actionIds"][0]
    assert json.loads(record["after"]) == {"messages": [1, 2]}
    (ended,) = json.loads(record["before"])["ended"]
    assert (ended["message"], ended["outcome"], ended["code"]) == (1, "dead", "gone")
    assert (await sluice("audit", "verify")).code == 0


async def test_all_or_none_are_retried(sluice: Sluice, stack: Stack) -> None:
    await put(stack, "a", "b")
    await end(stack, 1, "dead")
    await end(stack, 1, "sent")
    said = await sluice("outbox", "retry", "1", "2", "--reason", "again")
    assert said.code == 5
    assert "message 2 is sent" in said.err
    assert (await sluice("outbox", "retry", "1", "9", "--reason", "again")).code == 3
    assert await listed(sluice) == [("b", "sent"), ("a", "dead")]
    assert await stack.value("SELECT count(*) FROM audit") == 0
    for wrong in (["1", "--handler", "slack", "--dead"], ["--handler", "slack"], ["--dead"], []):
        assert (await sluice("outbox", "retry", *wrong, "--reason", "again")).code == 2
    assert (await sluice("outbox", "retry", "1", "--reason", " ")).code == 2


async def test_all_dead_ones_of_a_handler_are_retried(sluice: Sluice, stack: Stack) -> None:
    await put(stack, *(f"key-{number}" for number in range(1100)))
    await end(stack, 1050, "dead")
    await put(stack, "other", handler="mail")
    await end(stack, 1, "dead", handler="mail")
    said = await sluice("outbox", "retry", "--handler", "slack", "--dead", "--reason", "it is back")
    assert "1050 messages are due" in said.out
    assert await stack.value("SELECT count(*) FROM outbox") == 1100
    assert await listed(sluice, "--state", "dead") == [("other", "dead")]
    said = await sluice("outbox", "retry", "--handler", "mail", "--dead", "--reason", "so is this")
    assert said.out == "1 message is due\n"
    assert await listed(sluice, "--state", "dead") == []
    assert await stack.value("SELECT count(*) FROM audit") == 4
    again = ["--handler", "slack", "--dead", "--reason", "it is back", "--json"]
    assert (await sluice("outbox", "retry", *again)).json == {"retried": 0, "actionIds": []}


async def test_a_dead_message_is_dropped_and_may_come_back(sluice: Sluice, stack: Stack) -> None:
    await put(stack, "a", "b")
    await end(stack, 1, "dead")
    assert (await sluice("outbox", "drop", "1", "--reason", "told them")).code == 0
    assert await listed(sluice) == [("b", "waiting"), ("a", "dropped")]
    said = await sluice("outbox", "drop", "1", "--reason", "told them")
    assert (said.code, "message 1 is dropped" in said.err) == (5, True)
    assert (await sluice("outbox", "drop", "2", "--reason", "told them")).code == 5
    assert (await sluice("outbox", "drop", "9", "--reason", "told them")).code == 3
    assert await stack.value("SELECT count(*) FROM audit WHERE action = 'message.dropped'") == 1
    assert (await sluice("outbox", "retry", "1", "--reason", "did not")).code == 0
    assert await listed(sluice, "--state", "waiting") == [("b", "waiting"), ("a", "waiting")]
