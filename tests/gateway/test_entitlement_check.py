"""`POST /api/v1/entitlements/check`, the hot question of an application."""

import json
from typing import Any

import httpx
import pytest

from tests.gateway.conftest import Gateway, assert_envelope
from tests.gateway.test_api import add_token

PATH = "/api/v1/entitlements/check"


async def ask(gateway: Gateway, token: str, body: Any, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await gateway.client.post(
        PATH,
        content=body if isinstance(body, bytes) else json.dumps(body),
        headers={
            "authorization": f"Bearer {token}",
            "content-type": "application/json",
            **named,
        },
    )


def told(answer: httpx.Response) -> list[tuple[str, str, bool, Any]]:
    data = assert_envelope(answer, 200, None)
    return [(c["tenant"], c["feature"], c["allowed"], c["value"]) for c in data["checks"]]


@pytest.fixture
async def shop(gateway: Gateway) -> Gateway:
    """acme has what there is to have; old is another name of it; other has one thing."""
    await gateway.owner.execute(
        "INSERT INTO tenants (tenant, merged_into, merged_at) VALUES ('acme', NULL, NULL),"
        " ('other', NULL, NULL), ('old', 'acme', now())"
    )
    rows = [
        (1, "acme", "seats", "5", None, None),
        (2, "acme", "seats", "20", None, "1 hour"),
        (3, "acme", "sso", "true", None, None),
        (4, "acme", "chat", "false", None, None),
        (5, "acme", "calls", "0", None, None),
        (6, "acme", "tier", '"gold"', None, None),
        (7, "acme", "gone", "true", None, "-1 hour"),
        (8, "acme", "soon", "true", "1 hour", None),
        (9, "acme", "disk", '"unlimited"', None, None),
        (10, "other", "seats", "1", None, None),
    ]
    for number, tenant, feature, value, begins, ends in rows:
        await gateway.owner.execute(
            "INSERT INTO grants (object, plan, feature, tenant, value, rank, catalog_version,"
            " valid_from, valid_until) VALUES ($1, 'pro', $2, $3, $4, 0, 0,"
            " now() + $5::text::interval, now() + $6::text::interval)",
            number, feature, tenant, value, begins, ends,
        )  # fmt: skip
    return gateway


async def test_many_features_of_one_tenant(shop: Gateway) -> None:
    token = await add_token(shop, "service")
    features = ["seats", "sso", "chat", "calls", "tier", "gone", "soon", "disk", "nothing"]
    answer = await ask(shop, token, {"tenant": "acme", "features": features})
    assert told(answer) == [
        ("acme", "seats", True, 20),
        ("acme", "sso", True, True),
        ("acme", "chat", False, False),
        ("acme", "calls", False, 0),
        ("acme", "tier", True, "gold"),
        ("acme", "gone", False, None),
        ("acme", "soon", False, None),
        ("acme", "disk", True, "unlimited"),
        ("acme", "nothing", False, None),
    ]
    until = [one["validUntil"] for one in answer.json()["data"]["checks"]]
    assert until[0].endswith("Z")  # then it is 5
    assert until[1] is None


async def test_it_says_what_the_entitlements_say(shop: Gateway) -> None:
    """The one statement and the whole reading agree on every feature."""
    token = await add_token(shop, "service")
    whole = await shop.client.get(
        "/api/v1/tenants/acme/entitlements", headers={"authorization": f"Bearer {token}"}
    )
    listed = {one["feature"]: one for one in whole.json()["data"]["entitlements"]}
    answer = await ask(shop, token, {"tenant": "acme", "features": sorted(listed)})
    for one in answer.json()["data"]["checks"]:
        assert one["value"] == listed[one["feature"]]["value"]
        assert one["validUntil"] == listed[one["feature"]]["validUntil"]


async def test_many_tenants_in_the_order_in_which_they_were_asked_for(shop: Gateway) -> None:
    token = await add_token(shop, "operator")
    asked = [("other", "seats"), ("nobody", "seats"), ("acme", "sso"), ("old", "seats")]
    body = {"checks": [{"tenant": tenant, "feature": feature} for tenant, feature in asked]}
    assert told(await ask(shop, token, body)) == [
        ("other", "seats", True, 1),
        ("nobody", "seats", False, None),
        ("acme", "sso", True, True),
        ("old", "seats", True, 20),
    ]


async def test_a_tenants_token_asks_for_itself_only(shop: Gateway) -> None:
    token = await add_token(shop, "tenant:acme")
    assert told(await ask(shop, token, {"features": ["sso"]})) == [("acme", "sso", True, True)]
    theirs = await ask(shop, token, {"tenant": "other", "features": ["seats"]})
    absent = await ask(shop, token, {"tenant": "nobody", "features": ["seats"]})
    mixed = await ask(
        shop, token,
        {"checks": [{"tenant": one, "feature": "seats"} for one in ("acme", "other")]},
    )  # fmt: skip
    for answer in (theirs, absent, mixed):
        assert_envelope(answer, 404, "not_found")
        assert answer.json()["error"] == theirs.json()["error"]
    # By its old name a merged tenant has what the other one has, and cannot ask for that one.
    old = await add_token(shop, "tenant:old")
    assert told(await ask(shop, old, {"features": ["sso"]})) == [("old", "sso", True, True)]
    other = await ask(shop, old, {"tenant": "acme", "features": ["sso"]})
    assert_envelope(other, 404, "not_found")


async def test_an_answer_that_still_holds_is_304(shop: Gateway) -> None:
    token = await add_token(shop, "service")
    body = {"tenant": "other", "features": ["seats"]}
    first = await ask(shop, token, body)
    etag = first.headers["etag"]
    assert first.headers["cache-control"] == "private, no-cache"
    assert first.headers["vary"] == "Authorization"
    for tags in (etag, etag.removeprefix("W/"), f'"x", {etag}', "*"):
        again = await ask(shop, token, body, if_none_match=tags)
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == etag
        assert again.headers["x-request-id"]
        assert again.headers["ratelimit"]
    await shop.owner.execute("UPDATE grants SET value = '2' WHERE tenant = 'other'")
    changed = await ask(shop, token, body, if_none_match=etag)
    assert told(changed) == [("other", "seats", True, 2)]
    assert changed.headers["etag"] != etag


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/tenant"),
        ({"features": ["seats"]}, "/tenant"),
        ({"tenant": "acme"}, "/features"),
        ({"tenant": "acme", "features": []}, "/features"),
        ({"tenant": "acme", "features": ["x"] * 101}, "/features"),
        ({"tenant": "acme", "features": ["x", 1]}, "/features/1"),
        ({"tenant": "", "features": ["x"]}, "/tenant"),
        ({"tenant": "acme", "features": ["x"], "checks": [{"tenant": "a", "feature": "b"}]},
         "/checks"),
        ({"checks": [{"tenant": "acme"}]}, "/checks/0"),
        ({"checks": [{"tenant": "acme", "feature": "x", "more": 1}]}, "/checks/0"),
        ({"more": 1}, ""),
        ([], ""),
    ],
)  # fmt: skip
async def test_what_is_no_question_is_422(shop: Gateway, body: Any, pointer: str) -> None:
    answer = await ask(shop, await add_token(shop, "service"), body)
    assert_envelope(answer, 422, "invalid_body")
    assert [one["pointer"] for one in answer.json()["error"]["details"]] == [pointer]


async def test_what_is_no_json_is_refused(shop: Gateway) -> None:
    token = await add_token(shop, "service")
    assert_envelope(await ask(shop, token, b"{"), 400, "malformed_request")
    assert_envelope(await ask(shop, token, b"\xff"), 400, "malformed_request")
    assert_envelope(await ask(shop, token, b" " * (1 << 20) + b"{}"), 413, "body_too_large")
    answer = await ask(shop, token, {}, content_type="text/plain")
    assert_envelope(answer, 415, "unsupported_media_type")


async def test_names_that_nothing_can_have_are_not_allowed(shop: Gateway) -> None:
    token = await add_token(shop, "service")
    odd = ["a\0b", "é" * 200, "%", "'"]
    answer = await ask(shop, token, {"tenant": "acme", "features": odd})
    assert [allowed for _, _, allowed, _ in told(answer)] == [False] * len(odd)
