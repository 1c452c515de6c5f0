"""Polar is asked like every provider, in its own way."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.fetching import look
from tests.support.polar_api import polar_api
from tests.support.reconciling import PolarScene
from tests.support.stack import Stack
from workers.fetching.pacing import Pace, pace_of
from workers.fetching.polar import KINDS, base_of


@pytest.fixture
async def scene(stack: Stack) -> AsyncIterator[PolarScene]:
    """The source `polar` with an API key, and an organization with a customer."""
    async with polar_api() as api:
        made = PolarScene(stack, api)
        await made.open()
        await made.deliver(*api.sign_up("cus_1", "acme"), *api.subscribe("cus_1", "sub_1"))
        api.orders["order_1"] = {
            "id": "order_1", "created_at": api.after(seconds=1), "modified_at": None,
            "status": "paid", "customer_id": "cus_1", "product_id": "prod_book",
        }  # fmt: skip
        yield made


async def want(scene: PolarScene, kind: str, number: str) -> None:
    """The object wants to be fetched, be it that it was never seen."""
    await scene.execute(
        "INSERT INTO objects (source_id, account, livemode, kind, object_id, customer, register,"
        " wants) VALUES ($1, '', true, $2, $3, 'cus_1', $4, 'hint') ON CONFLICT DO NOTHING",
        scene.stack.sources["polar"], kind, number,
        json.dumps({"version": 0, "unknown": {"status": "unobserved"}, "wants": "hint"}),
    )  # fmt: skip
    await scene.execute("UPDATE objects SET wants = 'hint' WHERE object_id = $1", number)


ASKED = {
    "subscription": ("sub_1", "/v1/subscriptions/sub_1"),
    "order": ("order_1", "/v1/orders/order_1"),
    "customer": ("cus_1", "/v1/customers/cus_1"),
    "customer_state": ("cus_1", "/v1/customers/cus_1/state"),
    "benefit_grant": ("grant_sub_1", "/v1/benefit-grants/"),
}


def test_every_kind_has_its_path() -> None:
    assert ASKED.keys() == KINDS


@pytest.mark.parametrize("kind", ASKED)
async def test_what_is_asked(scene: PolarScene, kind: str) -> None:
    number, path = ASKED[kind]
    await scene.execute("DELETE FROM objects WHERE kind = 'customer_state'")
    await want(scene, kind, number)
    await scene.execute("UPDATE objects SET wants = NULL WHERE kind <> $1", kind)
    await look(scene.fetching())
    (asked,) = scene.api.asked
    assert (asked.path, asked.key) == (path, "polar_oat_1")
    assert asked.headers["polar-version"] == "2026-10"
    (found,) = await scene.events()
    body = json.loads(found["body"])
    assert (body["kind"], body["id"], body["result"]["id"]) == (kind, number, number)
    assert body["floor"] < body["ceiling"]
    await scene.stack.drain()
    assert await scene.stack.value("SELECT count(*) FROM settlements WHERE status = 'dead'") == 0


async def test_an_id_cannot_lead_elsewhere(scene: PolarScene) -> None:
    await want(scene, "subscription", "../customers/cus_1?x=")
    await look(scene.fetching())
    assert scene.api.asked[0].path == "/v1/subscriptions/..%2Fcustomers%2Fcus_1%3Fx%3D"


async def test_a_grant_is_found_on_whichever_page_it_is(scene: PolarScene) -> None:
    for number in range(150):
        scene.api.grants[f"grant_{number}"] = scene.api.grants["grant_sub_1"] | {
            "id": f"grant_{number}"
        }
    await want(scene, "benefit_grant", "grant_149")
    await look(scene.fetching())
    assert [asked.query["page"] for asked in scene.api.asked] == ["1", "2"]
    (found,) = await scene.events()
    assert json.loads(found["body"])["result"]["id"] == "grant_149"


async def test_what_is_not_there_is_an_answer(scene: PolarScene) -> None:
    del scene.api.subscriptions["sub_1"]
    await want(scene, "subscription", "sub_1")
    await look(scene.fetching())
    (found,) = await scene.events()
    assert json.loads(found["body"])["result"] is None
    await scene.stack.drain()
    assert await scene.stack.features("acme") == {}


async def test_but_not_for_a_key_that_sees_nobody_of_ours(scene: PolarScene) -> None:
    scene.api.subscriptions, scene.api.customers = {}, {}
    await want(scene, "subscription", "sub_1")
    await look(scene.fetching())
    assert await scene.events() == []
    row = await scene.row()
    assert (row["last_code"], row["attempts"]) == ("not_found", 1)
    assert await scene.stack.features("acme") == {"seats": 10, "sso": True}


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ({"status": 500}, "server_error"),
        ({"status": 401}, "unauthorized"),
        ({"status": 403}, "forbidden"),
        ({"status": 422}, "refused"),
        ({"status": 429, "headers": {"Retry-After": "9"}}, "rate_limited"),
        ({"status": 307, "headers": {"Location": "http://127.0.0.1:9/"}}, "unreadable"),
        ({"cut_after": 20}, "unreachable"),
        ({"hang": True}, "timeout"),
        ({"drip_s": 0.1}, "timeout"),
        ({"body": b"<html>log in</html>"}, "unreadable"),
        ({"body": b"[1]"}, "unreadable"),
        ({"body": b'{"id": "sub_2"}'}, "unreadable"),
        ({"body": b'{"id": "sub_1", "status": 7}'}, "unfit"),
        ({"body": b'{"id": "sub_1", "x": NaN}'}, "unreadable"),
        ({"body": b" " * (8 << 20) + b"  "}, "unreadable"),
    ],
)
async def test_a_failure_leaves_nothing_but_its_reason(
    scene: PolarScene, fault: dict[str, Any], code: str
) -> None:
    await want(scene, "subscription", "sub_1")
    scene.api.fail(times=1, **fault)
    fetching = scene.fetching(within_s=2.0)
    await look(fetching)
    row = await scene.row()
    assert row["last_code"] == code
    assert row["last_error"]
    assert "polar_oat_1" not in row["last_error"]
    assert await scene.events() == []
    if code == "rate_limited":
        assert 8 < (await scene.budget())["wait_s"] <= 9
    await scene.make_due()
    await scene.pass_wait()
    await scene.execute("UPDATE fetch_budgets SET tokens = 100, refilled_at = now()")
    await look(fetching)
    assert (await scene.row())["last_code"] == "answered"


async def test_an_answer_without_a_date_is_none(scene: PolarScene) -> None:
    await want(scene, "subscription", "sub_1")
    scene.api.has_date = False
    await look(scene.fetching())
    assert (await scene.row())["last_code"] == "no_date"


async def test_nobody_there_is_a_failure_that_does_not_say_the_key(scene: PolarScene) -> None:
    await scene.set_key("polar_oat_1", source="polar", base="http://127.0.0.1:9")
    await want(scene, "subscription", "sub_1")
    await look(scene.fetching())
    assert (await scene.row())["last_code"] == "unreachable"


async def test_each_source_is_asked_for_the_kinds_of_its_provider(scene: PolarScene) -> None:
    await want(scene, "invoice", "in_1")
    await look(scene.fetching())
    assert scene.api.asked == []
    assert await scene.stack.value("SELECT count(*) FROM fetches") == 0


def test_the_sandbox_is_another_host_and_slower() -> None:
    assert base_of(True) == "https://api.polar.sh"
    assert base_of(False) == "https://sandbox-api.polar.sh"
    live, sandbox = pace_of("polar", True), pace_of("polar", False)
    # Half of 500 and of 100 a minute, bursts included.
    assert live.rate * 60 + live.burst <= 250
    assert sandbox.rate * 60 + sandbox.burst <= 60
    assert pace_of("stripe", True) == pace_of("stripe", False) == Pace()
