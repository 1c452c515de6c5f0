"""The read API: who may see what, and that it looks the same where nothing is to be seen."""

import json
import uuid
from datetime import timedelta
from typing import Any

import httpx
import pytest

from shared.store import tokens
from tests.gateway.conftest import Gateway, assert_envelope

PATH = "/api/v1/tenants/acme/entitlements"


async def add_token(gateway: Gateway, scope: str, *, ends_in: timedelta | None = None) -> str:
    token = tokens.new_token()
    await tokens.create(
        gateway.owner, uuid.uuid4(), "test", scope, tokens.digest_of(token), "test", ends_in
    )
    return token


async def get(gateway: Gateway, path: str, token: str | None) -> httpx.Response:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    return await gateway.client.get(path, headers=headers)


@pytest.fixture
async def acme(gateway: Gateway) -> Gateway:
    await gateway.owner.execute("INSERT INTO tenants (tenant) VALUES ('acme'), ('a/b'), ('other')")
    return gateway


@pytest.mark.parametrize("scope", ["operator", "service", "tenant:acme"])
async def test_a_token_sees_what_its_scope_covers(acme: Gateway, scope: str) -> None:
    token = await add_token(acme, scope)
    data = assert_envelope(await get(acme, PATH, token), 200, None)
    assert data["tenant"] == "acme"
    assert data["entitlements"] == []


async def test_another_tenant_looks_like_none(acme: Gateway) -> None:
    token = await add_token(acme, "tenant:acme")
    other = await get(acme, "/api/v1/tenants/other/entitlements", token)
    absent = await get(acme, "/api/v1/tenants/nobody/entitlements", token)
    assert_envelope(other, 404, "not_found")
    assert other.json()["error"] == absent.json()["error"]


async def test_a_tenant_that_nobody_named_is_404(acme: Gateway) -> None:
    token = await add_token(acme, "service")
    for tenant in ("nobody", "%00", "x" * 300):
        answer = await get(acme, f"/api/v1/tenants/{tenant}/entitlements", token)
        assert_envelope(answer, 404, "not_found")


async def test_a_merged_tenant_is_answered_with_what_the_other_has(acme: Gateway) -> None:
    """Whoever still asks by the old name loses nothing, and can see that it is one."""
    await acme.owner.execute(
        "UPDATE tenants SET merged_into = 'other', merged_at = now() WHERE tenant = 'acme'"
    )
    await acme.owner.execute(
        "INSERT INTO grants (object, plan, feature, tenant, value, rank, catalog_version)"
        " VALUES (7, 'manual', 'seats', 'other', '5', 0, 0)"
    )
    token = await add_token(acme, "tenant:acme")
    data = assert_envelope(await get(acme, PATH, token), 200, None)
    assert (data["tenant"], data["mergedInto"]) == ("acme", "other")
    assert data["mergedAt"].endswith("Z")
    assert [(one["feature"], one["value"]) for one in data["entitlements"]] == [("seats", 5)]
    # A token for the old name is none for the other's own.
    other = await get(acme, "/api/v1/tenants/other/entitlements", token)
    assert_envelope(other, 404, "not_found")
    data = assert_envelope(
        await get(acme, "/api/v1/tenants/other/entitlements", await add_token(acme, "service")),
        200,
        None,
    )
    assert (data["tenant"], data["mergedInto"], data["mergedAt"]) == ("other", None, None)


async def test_a_tenant_may_hold_a_slash(acme: Gateway) -> None:
    token = await add_token(acme, "service")
    answer = await get(acme, "/api/v1/tenants/a%2Fb/entitlements", token)
    assert assert_envelope(answer, 200, None)["tenant"] == "a/b"


async def test_without_a_valid_token_nothing_is_said(acme: Gateway) -> None:
    revoked = await add_token(acme, "service")
    await acme.owner.execute("UPDATE tokens SET revoked_at = now()")
    expired = await add_token(acme, "service", ends_in=timedelta(seconds=-1))
    for token in (revoked, expired, "slu_wrong", "x" * 5000):
        answer = await get(acme, PATH, token)
        assert_envelope(answer, 401, "invalid_token")
        assert answer.headers["www-authenticate"].startswith("Bearer")
    assert_envelope(await get(acme, PATH, None), 401, "missing_token")


async def test_the_api_only_reads(acme: Gateway) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        answer = await acme.client.request(method, PATH)
        assert_envelope(answer, 405, "method_not_allowed")
    answer = await acme.client.get("/api/v1/tenants/acme/nothing")
    assert_envelope(answer, 404, "not_found")


# Explanations -----------------------------------------------------------------------------------


@pytest.fixture
async def pilot(acme: Gateway) -> Gateway:
    """acme has seats, given by hand."""
    await acme.owner.execute(
        "INSERT INTO manual_grants (object, tenant, given_to, feature, value, actor, reason)"
        " VALUES (7, 'acme', 'acme', 'seats', '5', 'operator:ana', 'pilot extension')"
    )
    await acme.owner.execute(
        "INSERT INTO grants (object, plan, feature, tenant, value, rank, catalog_version)"
        " VALUES (7, 'manual', 'seats', 'acme', '5', 0, 0)"
    )
    return acme


@pytest.mark.parametrize("scope", ["operator", "service"])
async def test_a_feature_is_explained(pilot: Gateway, scope: str) -> None:
    token = await add_token(pilot, scope)
    data = assert_envelope(await get(pilot, f"{PATH}/seats", token), 200, None)
    assert (data["tenant"], data["feature"], data["value"]) == ("acme", "seats", 5)
    (because,) = data["because"]
    assert because["operator"]["actor"] == "operator:ana"
    assert because["operator"]["reason"] == "pilot extension"
    assert data["text"].startswith("acme may use seats: 5.\n\nWhy:\n- 5 given by operator ana on ")


async def test_a_tenant_is_not_told_who_of_the_operators_it_was_nor_why(pilot: Gateway) -> None:
    answer = await get(pilot, f"{PATH}/seats", await add_token(pilot, "tenant:acme"))
    (because,) = assert_envelope(answer, 200, None)["because"]
    assert (because["operator"]["actor"], because["operator"]["reason"]) == ("operator", None)
    assert answer.json()["data"]["text"].startswith(
        "acme may use seats: 5.\n\nWhy:\n- 5 given by an operator on "
    )
    assert "ana" not in answer.text
    assert "pilot" not in answer.text


async def test_a_feature_that_nobody_has_is_an_answer(pilot: Gateway) -> None:
    token = await add_token(pilot, "service")
    data = assert_envelope(await get(pilot, f"{PATH}/chat", token), 200, None)
    assert (data["value"], data["isKnown"], data["features"]) == (None, False, ["seats"])


async def test_a_moment_may_be_asked_for(pilot: Gateway) -> None:
    token = await add_token(pilot, "service")
    past = assert_envelope(await get(pilot, f"{PATH}/seats?at=2020-01-01", token), 200, None)
    assert (past["tense"], past["at"]) == ("past", "2020-01-01T00:00:00Z")
    assert past["text"] == "On 1 Jan 2020 00:00 UTC nothing was known of acme."
    future = assert_envelope(await get(pilot, f"{PATH}/seats?at=2120-01-01", token), 200, None)
    assert (future["tense"], future["value"]) == ("future", 5)


@pytest.mark.parametrize("at", ["", "soon", "2026-11-14T09:30:00+02:00", "9999999999w", "%00"])
async def test_what_is_no_moment_is_refused(pilot: Gateway, at: str) -> None:
    """A plus that is not encoded is a space."""
    token = await add_token(pilot, "service")
    answer = await get(pilot, f"{PATH}/seats?at={at}", token)
    assert_envelope(answer, 400, "malformed_request")
    assert answer.json()["error"]["message"].startswith("at: ")


async def test_an_explanation_of_another_tenant_looks_like_none(pilot: Gateway) -> None:
    token = await add_token(pilot, "tenant:other")
    theirs = await get(pilot, f"{PATH}/seats", token)
    absent = await get(pilot, "/api/v1/tenants/nobody/entitlements/seats", token)
    assert_envelope(theirs, 404, "not_found")
    assert theirs.json()["error"] == absent.json()["error"]
    # Nor does a wrong moment tell more.
    assert_envelope(await get(pilot, f"{PATH}/seats?at=soon", token), 404, "not_found")
    assert_envelope(await get(pilot, f"{PATH}/seats?at=soon", None), 401, "missing_token")


async def test_what_is_no_name_of_a_feature(pilot: Gateway) -> None:
    token = await add_token(pilot, "service")
    for feature in ("%00", "x" * 300):
        answer = await get(pilot, f"{PATH}/{feature}", token)
        assert_envelope(answer, 404, "not_found")
    slash = await get(pilot, "/api/v1/tenants/a%2Fb/entitlements/seats", token)
    assert assert_envelope(slash, 200, None)["tenant"] == "a/b"


# Members ----------------------------------------------------------------------------------------

MEMBERS = "/api/v1/tenants/acme/members"


def listed(answer: httpx.Response) -> tuple[list[Any], dict[str, Any]]:
    """The items of a page, and its meta."""
    assert answer.status_code == 200
    body = answer.json()
    assert body["error"] is None
    assert body["meta"].keys() == {"traceId", "limit", "next", "hasMore"}
    return body["data"], body["meta"]


@pytest.fixture
async def club(acme: Gateway) -> Gateway:
    """acme has three members of a Clerk organization, one of them without a role."""
    source = await acme.owner.fetchval(
        "INSERT INTO sources (name, provider, livemode) VALUES ('clerk', 'clerk', true)"
        " RETURNING id"
    )
    for number, role in enumerate(("org:admin", "org:member", None)):
        state = {"status": "present", "customer": "org_1", "tenant": "acme", "started_at": 0,
                 "member": f"user_{number}", "role": role}  # fmt: skip
        await acme.owner.execute(
            "INSERT INTO objects (source_id, account, livemode, kind, object_id, customer, tenant,"
            " register) VALUES ($1, '', true, 'organization_membership', $2, 'org_1', 'acme', $3)",
            source, f"orgmem_{number}", json.dumps({"sightings": [{"state": state}]}),
        )  # fmt: skip
    return acme


@pytest.mark.parametrize("scope", ["operator", "service", "tenant:acme"])
async def test_members_are_listed_in_pages(club: Gateway, scope: str) -> None:
    token = await add_token(club, scope)
    first = await get(club, f"{MEMBERS}?limit=2", token)
    data, meta = listed(first)
    assert data[0] == {
        "member": "user_0", "role": "org:admin", "since": "1970-01-01T00:00:00Z",
        "source": "clerk", "account": "", "livemode": True, "customer": "org_1",
        "object": "organization_membership/orgmem_0",
    }  # fmt: skip
    assert (len(data), meta["limit"], meta["hasMore"]) == (2, 2, True)
    last = await get(club, f"{MEMBERS}?limit=2&cursor={meta['next']}", token)
    data, meta = listed(last)
    assert [(one["member"], one["role"]) for one in data] == [("user_2", None)]
    assert (meta["limit"], meta["next"], meta["hasMore"]) == (2, None, False)


async def test_a_tenant_without_members_has_an_empty_list(acme: Gateway) -> None:
    answer = await get(acme, MEMBERS, await add_token(acme, "service"))
    assert listed(answer)[0] == []
    slash = await get(acme, "/api/v1/tenants/a%2Fb/members", await add_token(acme, "service"))
    assert listed(slash)[0] == []


async def test_members_of_another_tenant_look_like_none(club: Gateway) -> None:
    token = await add_token(club, "tenant:other")
    theirs = await get(club, MEMBERS, token)
    absent = await get(club, "/api/v1/tenants/nobody/members", token)
    assert_envelope(theirs, 404, "not_found")
    assert theirs.json()["error"] == absent.json()["error"]
    assert_envelope(await get(club, MEMBERS, None), 401, "missing_token")
    assert_envelope(await get(club, MEMBERS, "slu_wrong"), 401, "invalid_token")


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=501", "limit=-1", "limit=x", "limit=", "limit=%C2%B2", "cursor=x",
     "cursor=", "cursor=WyJ4Il0", "cursor=Wy0xXQ", "cursor=W3RydWVd", "cursor=WzEsMl0"],
)  # fmt: skip
async def test_what_is_no_page_is_refused(club: Gateway, query: str) -> None:
    answer = await get(club, f"{MEMBERS}?{query}", await add_token(club, "service"))
    assert_envelope(answer, 400, "malformed_request")
    assert answer.json()["error"]["message"].startswith(f"{query.partition('=')[0]}: ")


async def test_members_only_read(club: Gateway) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        answer = await club.client.request(method, MEMBERS)
        assert_envelope(answer, 405, "method_not_allowed")
