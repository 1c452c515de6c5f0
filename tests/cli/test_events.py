"""`sluice events`, `parked` and `replay`."""

from uuid import UUID, uuid4

from shared.domain.events import received_at_of
from tests.cli.conftest import Sluice
from tests.support.acme import add_acme, licence
from tests.support.stack import Stack
from tests.support.stripe_events import customer, event, subscription

KEYS = {
    "trackingId", "source", "eventId", "type", "status", "outcome", "occurredAt", "receivedAt",
    "tenant", "attempts", "deliveries", "error", "code", "settledAt",
}  # fmt: skip


async def test_an_event_is_listed_with_all_that_became_of_it(sluice: Sluice, stack: Stack) -> None:
    body = event(
        "customer.subscription.created",
        subscription(tenant="acme"),
        event_id="evt_1",
        created=1_790_000_000,
    )
    (tracking,) = await stack.apply(body)
    await stack.apply(body)
    (item,) = (await sluice("events", "list", "--json")).json["items"]
    assert set(item) == KEYS
    assert item["trackingId"] == str(tracking)
    assert (item["source"], item["eventId"]) == ("stripe", "evt_1")
    assert (item["status"], item["outcome"], item["tenant"]) == ("processed", "applied", "acme")
    assert (item["attempts"], item["deliveries"], item["error"]) == (1, 2, None)
    assert item["occurredAt"] == "2026-09-21T14:13:20Z"


async def test_an_event_is_received_until_a_worker_has_settled_it(
    sluice: Sluice, stack: Stack
) -> None:
    await stack.receive(event("customer.subscription.created", subscription()))
    (item,) = (await sluice("events", "list", "--json")).json["items"]
    assert (item["status"], item["outcome"], item["attempts"]) == ("received", None, 0)
    await stack.fetch(
        "INSERT INTO attempts (tracking_id, run, number, code, error, worker)"
        " SELECT tracking_id, 1, 1, 'failed', 'the disk is full', 'w1' FROM work"
    )
    await stack.fetch("UPDATE work SET attempts = 1, due_at = now() + interval '1 hour'")
    (item,) = (await sluice("events", "list", "--json")).json["items"]
    assert (item["status"], item["attempts"], item["error"]) == ("retrying", 1, "the disk is full")
    story = (await sluice("events", "show", item["trackingId"], "--json")).json
    assert [one["error"] for one in story["failures"]] == ["the disk is full"]
    assert story["runs"][0]["dueAt"] is not None


async def test_filters_and_pages(sluice: Sluice, stack: Stack) -> None:
    bodies = [
        event(
            "customer.subscription.created", subscription(f"sub_{number}"), event_id=f"evt_{number}"
        )
        for number in range(5)
    ]
    await stack.apply(*bodies)
    await stack.apply(event("payout.paid", {"id": "po_1", "object": "payout"}, event_id="evt_i"))
    await stack.receive(event("customer.subscription.created", subscription("sub_9")))

    async def ids(*args: str) -> list[str]:
        return [
            item["eventId"]
            for item in (await sluice("events", "list", "--json", *args)).json["items"]
        ]

    assert len(await ids()) == 7
    assert await ids("--status", "ignored") == ["evt_i"]
    assert await ids("--type", "payout.paid") == ["evt_i"]
    assert len(await ids("--status", "processed")) == 5
    assert len(await ids("--status", "received")) == 1
    assert await ids("--status", "dead") == []
    assert await ids("--status", "retrying") == []
    assert await ids("--event", "evt_3") == ["evt_3"]
    assert await ids("--source", "nobody") == []
    assert len(await ids("--source", "stripe")) == 7
    seen: list[str] = []
    cursor: list[str] = []
    while True:
        page = (await sluice("events", "list", "--limit", "3", "--json", *cursor)).json
        seen += [item["trackingId"] for item in page["items"]]
        if page["next"] is None:
            break
        cursor = ["--cursor", page["next"]]
    assert len(seen) == len(set(seen)) == 7
    assert seen == sorted(seen, key=lambda one: received_at_of(UUID(one)), reverse=True)


async def test_what_is_not_understood_is_a_usage_error(sluice: Sluice, stack: Stack) -> None:
    for args in [
        ("events", "list", "--status", "done"),
        ("events", "list", "--cursor", "nonsense"),
        ("events", "list", "--cursor", "WzFd"),
        ("events", "list", "--limit", "0"),
        ("events", "show", "evt_1"),
        ("replay", "evt_1", "--reason", "x"),
        ("replay", str(uuid4()), "--reason", " "),
        ("parked", "list", "--cursor", "WzEsMl0"),
    ]:
        said = await sluice(*args)
        assert said.code == 2, (args, said)
        assert "Traceback" not in said.err


async def test_show_tells_the_whole_story(sluice: Sluice, stack: Stack) -> None:
    body = event("customer.subscription.created", subscription(tenant="acme"), event_id="evt_1")
    (tracking,) = await stack.apply(body)
    await stack.apply(body.replace(b'"pending_webhooks": 1', b'"pending_webhooks": 0'))
    await stack.apply(body.replace(b"prod_pro", b"prod_max"))
    story = (await sluice("events", "show", tracking, "--json")).json
    assert set(story) > KEYS
    assert (story["verdict"], story["secret"], story["livemode"]) == ("verified", "0.1", True)
    assert story["deliveries"] == 3
    assert [one["sameBody"] for one in story["receipts"]] == [True, False, False]
    assert [one["conflictAt"] is not None for one in story["receipts"]] == [False, False, True]
    assert [(one["run"], one["outcome"]) for one in story["runs"]] == [(1, "applied")]
    assert [(one["command"], one["object"]) for one in story["commands"]] == [
        ("observe", "subscription/sub_1")
    ]
    assert [(one["object"], one["tenant"]) for one in story["objects"]] == [
        ("subscription/sub_1", "acme")
    ]
    assert [(one["step"], one["action"]) for one in story["audit"]] == [
        (0, "event.applied"),
        (1, "entitlement.granted"),
        (2, "entitlement.granted"),
    ]
    assert story["audit"][1]["after"] == {"value": 10, "validUntil": None}
    text = await sluice("events", "show", tracking)
    assert text.code == 0
    for part in ("Deliveries", "Runs", "Commands", "Objects", "Audit", "entitlement.granted"):
        assert part in text.out


async def test_an_unknown_event_is_not_found(sluice: Sluice, stack: Stack) -> None:
    assert (await sluice("events", "show", uuid4())).code == 3
    assert (await sluice("replay", uuid4(), "--reason", "why not")).code == 3


async def test_a_control_character_never_reaches_the_terminal(sluice: Sluice, stack: Stack) -> None:
    await stack.apply(event("x.\x1b[31m", {"id": "1", "object": "x"}, event_id="evt_\x1b]0;x\x07"))
    said = await sluice("events", "list")
    assert "\\x1b" in said.out
    assert "\x1b" not in said.out


async def test_a_parked_object_says_what_helps(sluice: Sluice, stack: Stack) -> None:
    await stack.apply(
        event("customer.subscription.created", subscription("sub_1", customer="cus_1")),
        event(
            "customer.subscription.created",
            subscription("sub_2", customer="cus_2", product="prod_new", tenant="acme"),
        ),
    )
    items = (await sluice("parked", "list", "--json")).json["items"]
    found = {item["object"]: item for item in items}
    assert found["subscription/sub_1"]["needs"] == "needs:link"
    assert (
        "sluice tenants link TENANT --source stripe --customer cus_1"
        in found["subscription/sub_1"]["explain"]
    )
    assert found["subscription/sub_2"]["needs"] == "needs:mapping"
    assert found["subscription/sub_2"]["tenant"] == "acme"
    assert "stripe:prod_new" in found["subscription/sub_2"]["explain"]
    assert (await sluice("parked", "list", "--source", "other", "--json")).json["items"] == []
    first = (await sluice("parked", "list", "--limit", "1", "--json")).json
    second = (await sluice("parked", "list", "--json", "--cursor", first["next"])).json
    assert {first["items"][0]["object"], second["items"][0]["object"]} == set(found)
    text = await sluice("parked", "list")
    assert "subscription/sub_1" in text.out
    assert "tenants link" in text.err


async def test_a_parked_object_of_a_configured_sender_says_what_helps(
    sluice: Sluice, stack: Stack
) -> None:
    """Its products are its source's alone, and its words are in its mapping."""
    await add_acme(stack)
    await stack.apply(
        licence(1, id="lic_1", skus=["new"]), licence(2, id="lic_2", state="frozen"), source="acme"
    )
    items = (await sluice("parked", "list", "--json")).json["items"]
    explained = {item["needs"]: item["explain"] for item in items}
    assert "(acme:new): add it to a plan" in explained["needs:mapping"]
    assert "name it in the mapping's `statuses`" in explained["unknown_status"]


async def test_dead_events_are_listed_with_what_killed_them(sluice: Sluice, stack: Stack) -> None:
    await add_acme(stack)
    await stack.apply(licence(1, id=None), source="acme")
    table = (await sluice("events", "list", "--status", "dead")).out
    assert "acme" in table
    assert "mapping[0].object.id" in table
    assert "mapping[0]" not in (await sluice("events", "list")).out


async def test_a_replay_is_a_new_run_and_audited(sluice: Sluice, stack: Stack) -> None:
    (tracking,) = await stack.apply(
        event("customer.subscription.created", subscription(tenant="acme"))
    )
    said = await sluice("replay", tracking, "--reason", "checking", "--actor", "grace", "--json")
    assert said.code == 0, said.err
    assert said.json["run"] == 2
    (item,) = (await sluice("events", "list", "--json")).json["items"]
    assert (item["status"], item["outcome"]) == ("received", None)
    again = await sluice("replay", tracking, "--reason", "impatient")
    assert again.code == 5
    assert "run 2" in again.err
    assert f"comes again by itself, when: sluice events show {tracking}" in again.err
    await stack.drain()
    assert await stack.features("acme") == {"seats": 10, "sso": True}
    records = (await sluice("audit", "list", "--event", tracking, "--json")).json["items"]
    (replayed,) = [one for one in records if one["action"] == "event.replayed"]
    assert replayed["causeId"] == said.json["actionId"]
    assert (replayed["actor"], replayed["reason"]) == ("operator:grace", "checking")
    runs = [(one["run"], one["action"], one["actor"]) for one in records if one["cause"] == "event"]
    assert (2, "event.unchanged", "operator:grace") in runs
    story = (await sluice("events", "show", tracking, "--json")).json
    assert [one["run"] for one in story["runs"]] == [1, 2]
    assert story["attempts"] == 2
    assert "event.replayed" in [one["action"] for one in story["audit"]]
    third = await sluice("replay", tracking, "--reason", "once more", "--json")
    assert third.json["run"] == 3
    assert (await sluice("audit", "verify")).code == 0


async def test_an_event_whose_body_is_gone_cannot_be_replayed(sluice: Sluice, stack: Stack) -> None:
    (tracking,) = await stack.apply(
        event("customer.subscription.created", subscription(tenant="acme"))
    )
    await stack.fetch("DELETE FROM inbox")
    said = await sluice("replay", tracking, "--reason", "too late")
    assert said.code == 5
    assert "went by retention" in said.err
    story = (await sluice("events", "show", tracking, "--json")).json
    assert set(story) > KEYS
    assert (story["status"], story["tenant"]) == ("processed", "acme")
    assert story["verdict"] == "the body went by retention"


async def test_conflicts_can_be_listed_alone(sluice: Sluice, stack: Stack) -> None:
    first = event("customer.subscription.created", subscription(tenant="a"), event_id="evt_1")
    (tracking_id,) = await stack.apply(first)
    await stack.apply(event("customer.created", customer("cus_2", tenant="b")))
    await stack.apply(first.replace(b"prod_pro", b"prod_basic"))
    found = (await sluice("events", "list", "--conflicts", "--json")).json["items"]
    assert [one["trackingId"] for one in found] == [str(tracking_id)]
    assert len((await sluice("events", "list", "--json")).json["items"]) == 2


async def test_who_asked_for_a_replay_is_still_told_when_it_is_settled(
    sluice: Sluice, stack: Stack
) -> None:
    body = event("customer.subscription.created", subscription(tenant="acme"))
    (tracking_id,) = await stack.apply(body)
    replayed = await sluice("replay", tracking_id, "--reason", "fixed it", "--actor", "ada")
    assert replayed.code == 0, replayed.err
    await stack.drain()
    first, second = (await sluice("events", "show", tracking_id, "--json")).json["runs"]
    assert (first["actor"], first["reason"]) == (None, None)
    assert (second["actor"], second["reason"]) == ("operator:ada", "fixed it")
