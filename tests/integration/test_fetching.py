"""What an object is now is asked of the provider, and comes back as an event."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from shared.domain.events import lane_number
from shared.sealing import KeyRing, new_key
from shared.store import fetches
from tests.support.fetching import PACE, Scene, look, running, until
from tests.support.stack import Stack, new_crew
from tests.support.stripe_api import stripe_api
from tests.support.stripe_events import customer, event, subscription
from workers.fetching.fetch import Fetching
from workers.fetching.stripe import KINDS


@pytest.fixture
async def scene(stack: Stack) -> AsyncIterator[Scene]:
    """The source `stripe` with an API key, and a server that knows sub_1."""
    async with stripe_api() as api:
        made = Scene(stack, api)
        await made.set_key()
        api.put(subscription())
        yield made


# The answer -------------------------------------------------------------------------------------


async def test_an_answer_is_an_event_of_its_source(scene: Scene) -> None:
    await scene.want()
    scene.api.clock = lambda: 1_763_700_001.0
    await look(scene.fetching())
    (found,) = await scene.events()
    row = await scene.row()
    assert json.loads(found["body"]) == {
        "object": "sluice.fetched",
        "kind": "subscription",
        "id": "sub_1",
        "number": row["number"],
        "floor": 1_763_700_001 - 1 - 1,  # it took less than a second
        "ceiling": 1_763_700_001,
        "result": subscription(),
    }
    assert found["event_id"] == f"sluice.fetch/{row['number']}"
    assert (found["subject"], found["account"], found["livemode"]) == (
        "subscription/sub_1", "", True,
    )  # fmt: skip
    assert (found["secret"], found["occurred_at"].timestamp()) == ("fetch", 1_763_700_001)
    lanes = await scene.stack.lanes()
    assert scene.woken == [found["lane"]] == [lanes[lane_number("subscription/sub_1")]]
    headers = dict(json.loads(found["headers"]))
    assert headers["request-id"] == "req_1"
    assert headers["date"] == "Fri, 21 Nov 2025 04:40:01 GMT"
    assert headers["stripe-version"] == "2026-10-28.endive"
    assert (row["claimed_until"], row["attempts"], row["answers"]) == (None, 0, 1)
    assert (row["last_code"], row["answer"]) == ("answered", found["tracking_id"])


async def test_it_is_applied_and_audited_like_every_event(scene: Scene) -> None:
    await scene.see()
    await look(scene.fetching())
    await scene.stack.drain()
    (found,) = await scene.events()
    (record,) = await scene.stack.fetch(
        "SELECT * FROM audit WHERE cause_id = $1 AND step = 0", str(found["tracking_id"])
    )
    assert record["actor"] == "system:fetch"
    assert await scene.stack.value("SELECT count(*) FROM work") == 0


async def test_what_is_asked_names_the_key_and_the_version(scene: Scene) -> None:
    await scene.want()
    await look(scene.fetching())
    (asked,) = scene.api.asked
    assert (asked.path, asked.key) == ("/v1/subscriptions/sub_1", "sk_live_1")
    assert asked.headers["stripe-version"] == "2026-10-28.endive"
    assert "x-stripe-client-telemetry" not in asked.headers
    assert "platform" not in asked.headers["x-stripe-client-user-agent"]


async def test_the_floor_lies_before_the_answer_by_as_long_as_it_took(scene: Scene) -> None:
    await scene.want()
    scene.api.clock = lambda: 1_763_700_010.0
    scene.api.fail(delay_s=1.2)
    await look(scene.fetching())
    (found,) = await scene.events()
    body = json.loads(found["body"])
    assert (body["floor"], body["ceiling"]) == (1_763_700_010 - 2 - 1, 1_763_700_010)


SUMMARY = "entitlements.active_entitlement_summary"
OBJECTS = {
    "subscription": "/v1/subscriptions/", "checkout.session": "/v1/checkout/sessions/",
    "customer": "/v1/customers/", "invoice": "/v1/invoices/", "charge": "/v1/charges/",
    "refund": "/v1/refunds/", "dispute": "/v1/disputes/",
    "invoice_payment": "/v1/invoice_payments/",
    "radar.early_fraud_warning": "/v1/radar/early_fraud_warnings/",
}  # fmt: skip


async def test_every_kind_has_its_path(scene: Scene) -> None:
    assert OBJECTS.keys() | {SUMMARY} == KINDS
    for kind in OBJECTS:
        # What each of them needs to be read at all; its status says which it was.
        scene.api.put(
            {"object": kind, "id": "x_1", "livemode": True, "status": kind, "customer": "cus_1",
             "mode": "setup", "amount": 1, "actionable": True, "invoice": "in_1",
             "payment": {"type": "payment_intent", "payment_intent": "pi_1"}}
        )  # fmt: skip
        await scene.want("x_1", kind=kind)
    await look(scene.fetching(at_once=20))
    assert {asked.path for asked in scene.api.asked} == {f"{path}x_1" for path in OBJECTS.values()}
    bodies = [json.loads(found["body"]) for found in await scene.events()]
    assert {body["kind"]: body["result"]["status"] for body in bodies} == {
        kind: kind for kind in OBJECTS
    }


async def test_a_kind_that_nobody_can_ask_for_is_left_alone(scene: Scene) -> None:
    await scene.want("acct_1", kind="account")
    await look(scene.fetching())
    assert await scene.stack.value("SELECT count(*) FROM fetches") == 0


async def test_an_id_cannot_lead_elsewhere(scene: Scene) -> None:
    await scene.want("../customers/cus_1?x=", kind="subscription")
    await look(scene.fetching())
    assert [asked.path for asked in scene.api.asked] == [
        "/v1/subscriptions/..%2Fcustomers%2Fcus_1%3Fx%3D"
    ]


# Lists ------------------------------------------------------------------------------------------


def ticking(scene: Scene) -> None:
    """A clock that moves on by ten seconds with every answer."""
    moments = iter(range(1_763_700_000, 1_763_800_000, 10))
    scene.api.clock = lambda: float(next(moments))


async def body_of(scene: Scene) -> Any:
    (found,) = await scene.events()
    return json.loads(found["body"])


async def test_a_subscriptions_items_are_put_back_whole(scene: Scene) -> None:
    items = [{"id": f"si_{n}", "subscription": "sub_1", "quantity": n} for n in range(230)]
    others = [{"id": "si_x", "subscription": "sub_2"}]
    scene.api.lists["", "/v1/subscription_items"] = others + items
    await scene.want()
    ticking(scene)
    await look(scene.fetching())
    body = await body_of(scene)
    assert body["result"]["items"]["data"] == items
    assert body["result"]["items"]["has_more"] is False
    # The first answer's floor, the last one's ceiling.
    assert (body["floor"], body["ceiling"]) == (1_763_700_000 - 2, 1_763_700_030)
    assert [asked.query for asked in scene.api.asked[1:]] == [
        {"subscription": "sub_1", "limit": "100", **after}
        for after in ({}, {"starting_after": "si_99"}, {"starting_after": "si_199"})
    ]


async def test_a_subscription_whose_items_all_came_is_asked_for_once(scene: Scene) -> None:
    items = [{"id": f"si_{n}", "subscription": "sub_1"} for n in range(10)]
    scene.api.lists["", "/v1/subscription_items"] = items
    await scene.want()
    await look(scene.fetching())
    assert len(scene.api.asked) == 1
    assert (await body_of(scene))["result"]["items"]["data"] == items


async def test_a_sessions_line_items_come_with_it_and_whole(scene: Scene) -> None:
    lines = [{"id": f"li_{n}", "quantity": 1} for n in range(120)]
    path = "/v1/checkout/sessions/cs_1/line_items"
    scene.api.lists["acct_1", path] = lines
    scene.api.put({"object": "checkout.session", "id": "cs_1", "livemode": True}, "acct_1")
    await scene.want("cs_1", kind="checkout.session", account="acct_1")
    await look(scene.fetching())
    result = (await body_of(scene))["result"]
    assert result["line_items"]["data"] == lines
    assert result["line_items"]["has_more"] is False
    assert [asked.path for asked in scene.api.asked] == ["/v1/checkout/sessions/cs_1", path, path]
    assert {asked.account for asked in scene.api.asked} == {"acct_1"}
    assert "line_items" in scene.api.asked[0].query.values()


ACTIVE = "/v1/entitlements/active_entitlements"


async def test_a_summary_is_put_together_from_all_pages(scene: Scene) -> None:
    active = [
        {
            "id": f"ent_{n}",
            "customer": "cus_1",
            "livemode": True,
            "lookup_key": f"f{n}",
            "feature": f"feat_{n}",
        }
        for n in range(201)
    ]
    scene.api.lists["", ACTIVE] = [*active, {"id": "ent_x", "customer": "cus_2"}]
    await scene.want("cus_1", kind=SUMMARY)
    await look(scene.fetching())
    body = await body_of(scene)
    assert body["result"] == {
        "object": SUMMARY,
        "customer": "cus_1",
        "entitlements": {"object": "list", "data": active, "has_more": False},
    }
    assert [asked.path for asked in scene.api.asked] == [ACTIVE] * 3


async def test_an_empty_summary_takes_everything_away_only_from_a_customer_who_is_there(
    scene: Scene,
) -> None:
    """The key of another account gives an empty list as well."""
    scene.api.lists["", ACTIVE] = []
    await scene.want("cus_1", kind=SUMMARY)
    fetching = scene.fetching()
    await look(fetching)
    assert (await scene.row("cus_1"))["last_code"] == "not_found"
    assert await scene.events() == []
    scene.api.put(customer())
    await scene.make_due()
    await look(fetching)
    assert (await body_of(scene))["result"]["entitlements"]["data"] == []


async def test_pages_are_paid_for(scene: Scene) -> None:
    items = [{"id": f"si_{n}", "subscription": "sub_1"} for n in range(230)]
    scene.api.lists["", "/v1/subscription_items"] = items
    await scene.want()
    await look(scene.fetching(rate=0.001, burst=2))
    assert round((await scene.budget())["tokens"]) == 2 - 4


async def test_an_object_that_nobody_here_can_read_is_no_answer(scene: Scene) -> None:
    """Stored, it would settle dead, leave the object wanting, and be fetched for ever."""
    scene.api.put({**subscription(), "items": "many"})
    await scene.want()
    await look(scene.fetching())
    row = await scene.row()
    assert (row["last_code"], row["attempts"]) == ("unfit", 1)
    assert await scene.events() == []


@pytest.mark.parametrize("page", [
    {"data": [], "has_more": True}, {"data": [{"no": "id"}], "has_more": True}, {"data": None},
])  # fmt: skip
async def test_a_list_that_does_not_go_on_is_no_answer(scene: Scene, page: dict[str, Any]) -> None:
    scene.api.fail(path=ACTIVE, body=json.dumps(page).encode())
    await scene.want("cus_1", kind=SUMMARY)
    await look(scene.fetching())
    assert (await scene.row("cus_1"))["last_code"] == "unreadable"
    assert await scene.events() == []


# Failures ---------------------------------------------------------------------------------------

PATIENT = (3, 5.1)  # s until the first retry of what only a person can mend
BACKOFF = (0, 4.1)


@pytest.mark.parametrize(
    ("fault", "code", "wait_s"),
    [
        ({"status": 500}, "server_error", BACKOFF),
        ({"status": 503, "body": b"<html>busy</html>"}, "server_error", BACKOFF),
        ({"cut_after": 20}, "unreachable", BACKOFF),
        ({"hang": True}, "timeout", BACKOFF),
        ({"drip_s": 0.1}, "timeout", BACKOFF),
        ({"status": 404}, "not_found", PATIENT),
        ({"status": 403}, "forbidden", PATIENT),
        ({"status": 400}, "refused", PATIENT),
        ({"status": 301, "headers": {"Location": "/x"}}, "unreadable", BACKOFF),
        ({"body": b"<html>log in</html>"}, "unreadable", BACKOFF),
        ({"body": b"[1]"}, "unreadable", BACKOFF),
        ({"body": b'{"id": "sub_2", "object": "subscription"}'}, "unreadable", BACKOFF),
        ({"body": b'{"id": "sub_1", "object": "subscription", "x": NaN}'}, "unreadable", BACKOFF),
    ],
)
async def test_a_failure_leaves_nothing_but_its_reason(
    scene: Scene, fault: dict[str, Any], code: str, wait_s: tuple[float, float]
) -> None:
    await scene.want()
    scene.api.fail(times=1, **fault)
    fetching = scene.fetching(within_s=2.0)
    await look(fetching)
    row = await scene.row()
    assert (row["last_code"], row["attempts"], row["claimed_until"]) == (code, 1, None)
    assert row["last_error"]
    assert wait_s[0] < row["wait_s"] < wait_s[1]
    assert await scene.events() == []
    assert (await scene.budget())["open_until"] is None
    await look(fetching)
    assert len(scene.api.asked) == 1  # not before it is due
    await scene.make_due()
    await look(fetching)
    again = await scene.row()
    assert (again["last_code"], again["attempts"]) == ("answered", 0)
    assert again["number"] > row["number"]


async def test_an_answer_without_a_date_is_none(scene: Scene) -> None:
    await scene.want()
    scene.api.has_date = False
    await look(scene.fetching())
    assert (await scene.row())["last_code"] == "no_date"


async def test_nobody_there_is_a_failure_like_others(scene: Scene) -> None:
    await scene.set_key(base="http://127.0.0.1:9")
    await scene.want()
    await look(scene.fetching())
    row = await scene.row()
    assert row["last_code"] == "unreachable"
    assert "ConnectError" in row["last_error"]


async def test_what_is_not_found_is_asked_for_ever_less_and_revokes_nothing(
    scene: Scene,
) -> None:
    await scene.want("sub_gone")
    fetching = scene.fetching()
    waits = []
    for _ in range(6):
        await look(fetching)
        waits.append((await scene.row("sub_gone"))["wait_s"])
        await scene.make_due()
    assert waits == pytest.approx([5, 30, 300, 3600, 21_600, 21_600], abs=3)
    assert await scene.events() == []
    assert (await scene.budget())["open_until"] is None


async def test_an_object_of_the_other_mode_is_not_believed(scene: Scene) -> None:
    scene.api.keys = {"sk_test_1": False}
    scene.api.put(subscription(livemode=False))
    await scene.set_key("sk_test_1")
    await scene.want()
    await look(scene.fetching())
    row = await scene.row()
    assert (row["last_code"], row["last_error"]) == (
        "mode_mismatch", "the API key is one of test mode",
    )  # fmt: skip
    assert await scene.events() == []


async def test_too_many_requests_wait_and_charge_nobody(scene: Scene) -> None:
    for number in range(6):
        await scene.want(f"sub_{number}")
        scene.api.put(subscription(f"sub_{number}"))
    scene.api.fail(status=429, headers={"Retry-After": "7"}, times=3)
    fetching = scene.fetching(at_once=3)
    await look(fetching)
    budget = await scene.budget()
    assert 4 < budget["wait_s"] < 7.1
    assert budget["last_error"].startswith("rate_limited:")
    assert await scene.stack.value("SELECT max(attempts) FROM fetches") == 0
    await look(fetching, times=3)
    assert len(scene.api.asked) == 3
    await scene.pass_wait()
    await look(fetching)
    assert len(scene.api.asked) == 4  # one tries
    await look(fetching, times=3)
    assert len(await scene.events()) == 6
    assert (await scene.budget())["open_until"] is None


async def test_too_many_requests_without_a_time_wait_two_seconds(scene: Scene) -> None:
    await scene.want()
    scene.api.fail(status=429)
    await look(scene.fetching())
    assert 0 < (await scene.budget())["wait_s"] < 2.1


async def test_the_breaker_opens_lets_one_through_and_closes(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(12):
        await scene.want(f"sub_{number}")
        scene.api.put(subscription(f"sub_{number}"))
    caplog.set_level(logging.INFO)
    broken = scene.api.fail(status=500)
    fetching = scene.fetching(at_once=5)
    await look(fetching)
    budget = await scene.budget()
    assert (budget["failures"], budget["wait_s"]) == (5, pytest.approx(30, abs=5))
    assert len(scene.api.asked) == 5
    await look(fetching, times=3)
    assert len(scene.api.asked) == 5
    await scene.pass_wait()
    await look(fetching, times=3)
    assert len(scene.api.asked) == 6
    assert (await scene.budget())["wait_s"] == pytest.approx(60, abs=5)
    broken.times = 0
    await scene.pass_wait()
    await look(fetching)
    assert len(scene.api.asked) == 7
    budget = await scene.budget()
    assert (budget["failures"], budget["open_until"], budget["last_error"]) == (0, None, None)
    await scene.make_due()
    await look(fetching, times=3)
    assert len(await scene.events()) == 12
    said = [record.message for record in caplog.records]
    assert said.count("nothing is fetched for a while") == 2
    assert said.count("fetching goes on") == 1


async def test_a_fault_of_postgres_is_no_fault_of_the_provider(scene: Scene) -> None:
    """An answer that cannot be stored is asked for again when its claim has run out."""
    await scene.want()
    await scene.execute("REVOKE INSERT ON ledger FROM sluice_worker")
    fetching = scene.fetching()
    await look(fetching)
    row = await scene.row()
    assert (row["last_code"], row["attempts"]) == (None, 0)
    assert row["claimed_until"] is not None
    await scene.execute("GRANT INSERT ON ledger TO sluice_worker")
    await scene.pass_claims()
    await look(fetching)
    assert len(await scene.events()) == 1


# Keys -------------------------------------------------------------------------------------------


async def test_a_refused_key_stops_everything_until_there_is_another(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.api.keys = {"sk_live_2": True}
    for number in range(3):
        await scene.want(f"sub_{number}")
        scene.api.put(subscription(f"sub_{number}"))
    fetching = scene.fetching(at_once=2)
    await look(fetching)
    budget = await scene.budget()
    assert budget["wait_s"] == pytest.approx(300, abs=5)
    assert budget["last_error"].startswith("unauthorized: Invalid API Key")
    assert await scene.stack.value("SELECT max(attempts) FROM fetches") == 0
    assert "nothing is fetched for a while" in caplog.text
    await look(fetching, times=2)
    assert len(scene.api.asked) == 2
    # Another key is tried at once.
    await scene.set_key("sk_live_2")
    await look(fetching, times=2)
    assert len(await scene.events()) == 3
    assert (await scene.budget())["open_until"] is None
    assert "sk_live" not in caplog.text
    assert "sk_live" not in str(await scene.stack.fetch("SELECT * FROM fetches"))


async def test_a_worker_with_the_key_of_before_neither_asks_nor_accuses(scene: Scene) -> None:
    """Between an apply and the last worker's next look lie up to two seconds."""
    async with new_crew(scene.stack.endpoints, "old") as old:
        await scene.learn(old)
        outdated, current = scene.fetching(old), scene.fetching()
        await scene.want()
        hanging = scene.api.fail(status=401, delay_s=0.5, times=1)
        under_way = asyncio.create_task(look(outdated))
        await until(lambda: _is(scene.api.asked))
        await scene.set_key("sk_live_2")
        scene.api.keys = {"sk_live_2": True}
        scene.api.put(subscription("sub_2"))
        await scene.want("sub_2")
        await look(current)
        await under_way
        assert hanging.times == 0
        assert (await scene.budget())["open_until"] is None
        await scene.want("sub_3")
        await look(outdated, times=2)
        assert [asked.key for asked in scene.api.asked] == ["sk_live_1", "sk_live_2"]


async def test_what_failed_with_the_key_of_before_is_due_at_once(scene: Scene) -> None:
    await scene.want()
    scene.api.fail(status=403, times=4)
    fetching = scene.fetching()
    for _ in range(4):
        await look(fetching)
        await scene.make_due()
    await scene.execute("UPDATE fetches SET due_at = now() + interval '6 h'")
    await scene.set_key()
    await look(fetching)
    assert (await scene.row())["last_code"] == "answered"


async def test_a_source_without_a_key_is_left_alone(scene: Scene) -> None:
    await scene.stack.configure({"keyless": True})
    await scene.learn(scene.stack.crew)
    await scene.want("sub_9", source="keyless")
    await scene.want()
    fetching = scene.fetching()
    await look(fetching)
    assert [asked.path for asked in scene.api.asked] == ["/v1/subscriptions/sub_1"]
    assert await scene.stack.value("SELECT count(*) FROM fetches") == 1
    assert fetching.wanting == {"keyless": 1, "stripe": 1}


async def test_a_key_that_goes_takes_its_rows_with_it(scene: Scene) -> None:
    scene.api.fail(status=404)
    await scene.want()
    await look(scene.fetching())
    await scene.set_key(None)
    await look(scene.fetching())
    assert await scene.stack.value("SELECT count(*) FROM fetches") == 0
    assert len(scene.api.asked) == 1


async def test_without_the_secret_key_nothing_is_fetched_and_it_is_said(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    await scene.want()
    stranger = KeyRing.parse(new_key())
    keyless = Fetching(scene.stack.crew, None, scene.woken.extend, PACE)
    for fetching, said in (
        (keyless, "no SLUICE_SECRET_KEY to open it"),
        (scene.fetching(keys=stranger), "which SLUICE_SECRET_KEY lacks"),
    ):
        caplog.clear()
        await look(fetching, times=3)
        errors = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert len(errors) == 1  # once, not with every look
        assert said in errors[0].getMessage() + str(vars(errors[0]).get("error"))
    assert scene.api.asked == []


async def test_a_key_moved_to_another_address_does_not_open(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    await scene.execute("UPDATE source_keys SET api_base = 'https://thief.example'")
    await scene.want()
    await look(scene.fetching())
    assert "it was altered or moved" in str([vars(record) for record in caplog.records])
    assert scene.api.asked == []


# Accounts ---------------------------------------------------------------------------------------


async def test_an_object_of_a_connected_account_is_asked_of_that_account(scene: Scene) -> None:
    scene.api.put(subscription("sub_c"), "acct_1")
    await scene.want("sub_c", account="acct_1")
    await look(scene.fetching())
    assert [asked.account for asked in scene.api.asked] == ["acct_1"]
    (found,) = await scene.events()
    assert (found["account"], found["subject"]) == ("acct_1", "subscription/sub_c")
    assert dict(json.loads(found["headers"]))["stripe-account"] == "acct_1"


async def test_an_account_that_left_does_not_stop_the_others(scene: Scene) -> None:
    for number in range(8):
        await scene.want(f"sub_gone_{number}", account="acct_gone")
    await scene.want()
    await look(scene.fetching(), times=2)
    row = await scene.row("sub_gone_0")
    assert row["last_code"] == "forbidden"
    assert "acct_gone" in row["last_error"]
    assert (await scene.row())["last_code"] == "answered"
    assert (await scene.budget())["open_until"] is None


# Many workers -----------------------------------------------------------------------------------


async def test_two_workers_never_ask_for_one_object_at_once(scene: Scene) -> None:
    for number in range(40):
        await scene.want(f"sub_{number}")
        scene.api.put(subscription(f"sub_{number}"))
    scene.api.fail(delay_s=0.05)
    async with AsyncExitStack() as crews:
        fetchings = [scene.fetching()]
        for name in ("second", "third"):
            crew = await crews.enter_async_context(new_crew(scene.stack.endpoints, name))
            await scene.learn(crew)
            fetchings.append(scene.fetching(crew))

        async def all_answered() -> bool:
            return len(await scene.events()) == 40

        async with running(fetchings):
            await until(all_answered, 30)
    assert scene.api.doubled == []
    assert len(scene.api.asked) == 40
    assert scene.api.most_at_once > 1
    numbers = [row["number"] for row in await scene.stack.fetch("SELECT number FROM fetches")]
    assert len(set(numbers)) == 40


async def test_the_rate_holds_for_all_workers_together(scene: Scene) -> None:
    for number in range(120):
        await scene.want(f"sub_{number}")
        scene.api.put(subscription(f"sub_{number}"))
    async with new_crew(scene.stack.endpoints, "second") as second:
        await scene.learn(second)
        fetchings = [scene.fetching(crew, rate=20, burst=5) for crew in (scene.stack.crew, second)]
        begun = time.monotonic()
        while time.monotonic() < begun + 2:
            await look(*fetchings)
        passed_s = time.monotonic() - begun
    # By the database's clock, which cannot have seen more time than passed here.
    assert 15 < len(scene.api.asked) <= 5 + 20 * passed_s


async def test_a_claim_whose_holder_died_is_taken_over_with_a_larger_number(
    scene: Scene,
) -> None:
    await scene.want()
    fetching = scene.fetching()
    async with scene.stack.crew.db.transaction() as conn:
        wanted = {scene.stack.sources["stripe"]: ["subscription"]}
        await fetches.note_wanting(conn, wanted, -1, 9)
    async with scene.stack.crew.db.transaction() as conn:
        (dead,) = await fetches.claim(conn, scene.stack.sources["stripe"], 9, 60)
    await look(fetching, times=2)
    assert scene.api.asked == []
    await scene.pass_claims()
    await look(fetching)
    (found,) = await scene.events()
    assert json.loads(found["body"])["number"] > dead.number


async def test_an_answer_that_comes_late_is_stored_too(scene: Scene) -> None:
    """Its number is the smaller one: the fold knows that the other was asked later."""
    await scene.want()
    scene.api.fail(delay_s=3.0, times=1)
    async with new_crew(scene.stack.endpoints, "slow") as slow:
        await scene.learn(slow)
        late = asyncio.create_task(look(scene.fetching(slow)))
        await until(lambda: _is(scene.api.asked))
        await scene.pass_claims()
        await look(scene.fetching())
        overtaking = await scene.row()
        await late
    first, second = [json.loads(found["body"])["number"] for found in await scene.events()]
    assert first < second == overtaking["number"]
    assert await scene.row() | {"wait_s": 0} == overtaking | {"wait_s": 0}


async def test_what_is_under_way_at_a_stop_is_given_back(scene: Scene) -> None:
    await scene.want()
    hanging = scene.api.fail(hang=True)
    async with running([scene.fetching(within_s=30)]):
        await until(lambda: _is(scene.api.asked))
        assert (await scene.row())["claimed_until"] is not None
    row = await scene.row()
    assert (row["claimed_until"], row["attempts"]) == (None, 0)
    hanging.times = 0
    await look(scene.fetching())
    assert (await scene.row())["last_code"] == "answered"


# Wanting ----------------------------------------------------------------------------------------


async def test_an_object_is_not_asked_about_before_it_has_settled(scene: Scene) -> None:
    await scene.want()
    fetching = scene.fetching(settle_s=3.0)
    await look(fetching)
    assert 0.5 < (await scene.row())["wait_s"] <= 3
    assert scene.api.asked == []


async def test_who_wants_nothing_any_more_is_forgotten_and_not_asked_about(
    scene: Scene,
) -> None:
    wanting = await scene.want()
    await scene.want("sub_2")
    scene.api.put(subscription("sub_2"))
    first = scene.fetching(settle_s=0.3)
    await look(first)
    await scene.execute("UPDATE objects SET wants = NULL WHERE id = $1", wanting)
    await scene.make_due()
    await look(first)
    assert [asked.path for asked in scene.api.asked] == ["/v1/subscriptions/sub_2"]

    async def is_forgotten() -> bool:
        await look(first)
        count = "SELECT count(*) FROM fetches WHERE object = $1"
        return await scene.stack.value(count, wanting) == 0

    await until(is_forgotten)
    assert len(scene.api.asked) == 1


async def test_who_wants_again_is_asked_about_once_the_last_answer_is_applied(
    scene: Scene,
) -> None:
    await scene.see()
    fetching = scene.fetching()
    await look(fetching)
    assert 2 < (await scene.row())["wait_s"] <= 5
    await scene.make_due()
    await look(fetching, times=2)
    assert len(scene.api.asked) == 1
    await scene.stack.drain()
    await scene.execute("UPDATE objects SET wants = 'order'")
    await look(fetching)
    assert len(scene.api.asked) == 2
    assert 25 < (await scene.row())["wait_s"] <= 30


async def test_an_unfinished_event_says_that_it_was_fetched(scene: Scene) -> None:
    await scene.want()
    await look(scene.fetching())
    assert await scene.stack.value("SELECT actor FROM work") == "system:fetch"


async def test_events_and_fetches_of_one_object_share_a_lane(scene: Scene) -> None:
    await scene.stack.receive(event("customer.subscription.updated", subscription()))
    await scene.want()
    await look(scene.fetching())
    lanes = await scene.stack.fetch("SELECT DISTINCT lane FROM inbox")
    assert len(lanes) == 1


async def _is(found: object) -> bool:
    return bool(found)
