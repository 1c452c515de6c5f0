"""How every operation is served, and the small ones: tenants, health, CORS, HEAD, ETag, 405."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.api.operations import Operation, Shown
from gateway.api.receipts import RECEIPTS
from gateway.api.routes import OPERATIONS
from gateway.cors import read_origins
from shared.settings import Endpoints, SettingsError
from tests.gateway.conftest import Gateway, assert_envelope, running_gateway
from tests.gateway.test_api import add_token, get, listed
from tests.support.conforming import assert_conforms

APP = "https://app.example.com"
TENANTS = "/api/v1/tenants"


@pytest.fixture
async def town(gateway: Gateway) -> Gateway:
    names = ["acme", "acme-2", "acné", "b/c", "zoo", *(f"t{n:02}" for n in range(10))]
    await gateway.owner.execute("INSERT INTO tenants (tenant) SELECT unnest($1::text[])", names)
    await gateway.owner.execute(
        "INSERT INTO grants (object, plan, feature, tenant, value, rank, catalog_version)"
        " VALUES (7, 'manual', 'seats', 'acme', '5', 0, 0)"
    )
    return gateway


# Tenants ----------------------------------------------------------------------------------------


async def test_tenants_are_listed_by_name_page_by_page(town: Gateway) -> None:
    token = await add_token(town, "service")
    seen: list[str] = []
    path = f"{TENANTS}?limit=4"
    while path:
        items, meta = listed(await get(town, path, token))
        seen += [one["tenant"] for one in items]
        assert meta["hasMore"] == (meta["next"] is not None)
        path = f"{TENANTS}?limit=4&cursor={meta['next']}" if meta["hasMore"] else ""
    assert seen == sorted(seen, key=str.encode)
    assert len(seen) == len({*seen}) == 15


async def test_tenants_can_be_asked_for_by_a_prefix(town: Gateway) -> None:
    token = await add_token(town, "operator")
    for prefix, count in (("ac", 3), ("acme", 2), ("b/", 1), ("%", 0), ("t0", 10), ("", 15)):
        answer = await town.client.get(
            TENANTS, params={"prefix": prefix}, headers={"authorization": f"Bearer {token}"}
        )
        assert len(listed(answer)[0]) == count, prefix
    (acme, _) = listed(await get(town, f"{TENANTS}?prefix=acme", token))[0]
    assert (acme["tenant"], acme["features"], acme["mergedInto"]) == ("acme", 1, None)
    assert listed(await get(town, f"{TENANTS}?prefix=%00", token))[0] == []


async def test_a_tenants_token_sees_itself_in_the_list(town: Gateway) -> None:
    items, meta = listed(await get(town, f"{TENANTS}?limit=1", await add_token(town, "tenant:zoo")))
    assert [one["tenant"] for one in items] == ["zoo"]
    assert not meta["hasMore"]
    nobody = await add_token(town, "tenant:nobody")
    assert listed(await get(town, TENANTS, nobody))[0] == []


async def test_a_cursor_of_one_list_is_none_of_another(town: Gateway) -> None:
    token = await add_token(town, "service")
    cursor = (await get(town, f"{TENANTS}?limit=1", token)).json()["meta"]["next"]
    answer = await get(town, f"{TENANTS}/acme/members?cursor={cursor}", token)
    assert_envelope(answer, 400, "malformed_request")


# Health -----------------------------------------------------------------------------------------


async def test_health_says_ok_or_degraded(gateway: Gateway) -> None:
    token = await add_token(gateway, "tenant:acme")
    assert assert_envelope(await get(gateway, "/api/v1/health", token), 200, None) == {
        "status": "ok"
    }
    assert_envelope(await get(gateway, "/api/v1/health", None), 401, "missing_token")


async def test_operators_see_what_is_unfinished(gateway: Gateway) -> None:
    await gateway.post(b'{"id": "evt_1"}')
    await gateway.owner.execute(
        "INSERT INTO jobs (id, kind, actor) VALUES (gen_random_uuid(), 'export', 'test')"
    )
    path = "/api/v1/health/detailed"
    data = assert_envelope(
        await get(gateway, path, await add_token(gateway, "operator")), 200, None
    )
    assert data["status"] == "ok"
    assert {one["name"] for one in data["checks"]} == {
        "configuration", "doorbell", "database", "partitions", "migrations",
    }  # fmt: skip
    (source,) = data["sources"]
    assert (source["source"], source["isPaused"], source["lanes"]) == ("stripe", False, 1)
    assert 0 <= source["oldestS"] < 30
    assert data["jobs"] == [{"kind": "export", "waiting": 1, "running": 0, "paused": 0}]
    assert "sluice-gateway-api" in {one["name"] for one in data["processes"]}
    assert data["limitsAreShared"]
    for scope in ("service", "tenant:acme"):
        answer = await get(gateway, path, await add_token(gateway, scope))
        assert_envelope(answer, 403, "forbidden")


# How everything is served -----------------------------------------------------------------------


def pairs() -> list[tuple[str, set[str]]]:
    """Every path, and what it may be asked with."""
    methods: dict[str, set[str]] = {}
    for one in (*OPERATIONS, *RECEIPTS):
        also = {"HEAD"} if one.method == "GET" else set()
        methods.setdefault(one.path, set()).update({one.method}, also)
    return sorted(methods.items())


async def test_other_methods_are_405_and_told_all_there_are(gateway: Gateway) -> None:
    for path, allowed in pairs():
        url = path.replace(":path", "").replace("{", "").replace("}", "")
        for method in {"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"} - allowed:
            answer = await gateway.client.request(method, url)
            assert_envelope(answer, 405, "method_not_allowed")
            assert {one.strip() for one in answer.headers["allow"].split(",")} == allowed, path


async def test_every_operation_wants_a_token(gateway: Gateway) -> None:
    for one in OPERATIONS:
        url = one.path.replace(":path", "").replace("{", "").replace("}", "")
        for headers, code in (
            ({}, "missing_token"),
            ({"authorization": "Bearer slu_x"}, "invalid_token"),
        ):
            answer = await gateway.client.request(one.method, url, headers=headers)
            assert_envelope(answer, 401, code)
            assert answer.headers["www-authenticate"].startswith("Bearer"), one.path


async def test_head_is_get_without_a_body(town: Gateway) -> None:
    headers = {"authorization": f"Bearer {await add_token(town, 'service')}"}
    for path in (TENANTS, "/api/v1/users/me", f"{TENANTS}/acme/entitlements"):
        answer = await town.client.head(path, headers=headers)
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["etag"]
    assert (await town.client.head("/api/v1/entitlements/check")).status_code == 405


async def test_an_unknown_parameter_is_named(town: Gateway) -> None:
    token = await add_token(town, "service")
    for path in (f"{TENANTS}?limits=3", "/api/v1/users/me?x=1"):
        answer = await get(town, path, token)
        assert_envelope(answer, 400, "malformed_request")
        assert path.partition("?")[2].partition("=")[0] in answer.json()["error"]["message"]
        assert answer.json()["error"]["details"]


async def test_a_parameter_that_says_null_is_none_that_was_left_out(town: Gateway) -> None:
    """Or it would ask for everything; where a text is wanted it is a text like any other."""
    token = await add_token(town, "service")
    for query in ("jobs?state=null", "jobs?kind=Null", "events?from=null"):
        answer = await get(town, f"/api/v1/{query}", token)
        assert_envelope(answer, 400, "malformed_request")
        name = query.partition("?")[2].partition("=")[0]
        assert answer.json()["error"]["details"][0]["pointer"] == f"/{name}"
    assert (await get(town, "/api/v1/jobs?source=null", token)).json()["data"] == []


async def test_a_list_is_the_same_until_it_changes(town: Gateway) -> None:
    """Its cursor is another text each time, and yet it is the same page; a longer list is not."""
    token = await add_token(town, "service")
    bearer = {"authorization": f"Bearer {token}"}
    path = f"{TENANTS}?prefix=t0&limit=10"
    first = await town.client.get(path, headers=bearer)
    etag = first.headers["etag"]
    assert not first.json()["meta"]["hasMore"]
    again = await town.client.get(path, headers={**bearer, "if-none-match": etag})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["vary"] == "Authorization"
    # One more behind the page: its rows are the same, and what is behind it is not.
    await town.owner.execute("INSERT INTO tenants (tenant) VALUES ('t0z')")
    more = await town.client.get(path, headers={**bearer, "if-none-match": etag})
    assert more.json()["meta"]["hasMore"]
    assert more.headers["etag"] != etag
    page = more.headers["etag"]
    assert (await town.client.get(path, headers=bearer)).headers["etag"] == page


async def test_an_explanation_is_the_same_whenever_it_is_asked_for(town: Gateway) -> None:
    """The moment of asking is in it, and is not what it says."""
    bearer = {"authorization": f"Bearer {await add_token(town, 'service')}"}
    path = f"{TENANTS}/acme/entitlements/seats"
    first = await town.client.get(path, headers=bearer)
    known = {**bearer, "if-none-match": first.headers["etag"]}
    assert (await town.client.get(path, headers=known)).status_code == 304
    other = await town.client.get(f"{TENANTS}/acme/entitlements/sso", headers=known)
    assert other.status_code == 200


async def test_every_answer_names_its_request(town: Gateway) -> None:
    bearer = {"authorization": f"Bearer {await add_token(town, 'service')}"}
    for path in (TENANTS, f"{TENANTS}/x/entitlements", "/api/v1/nothing", "/docs", "/openapi.json"):
        answer = await town.client.get(path, headers={**bearer, "x-request-id": "mine-1"})
        assert answer.headers["x-request-id"] == "mine-1"


# Pages of browsers ------------------------------------------------------------------------------


@pytest.fixture
async def public(endpoints: Endpoints, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with running_gateway(
        endpoints, tmp_path, cors_origins=f"{APP}, http://[::1]:3000"
    ) as one:
        yield one


async def preflight(gateway: Gateway, path: str, **headers: str) -> Any:
    wanted = {"origin": APP, "access-control-request-method": "POST", **headers}
    return await gateway.client.options(path, headers=wanted)


async def test_a_configured_origin_may_ask(public: Gateway) -> None:
    path = "/api/v1/entitlements/check"
    asked = "authorization, idempotency-key, if-none-match, content-type"
    answer = await preflight(public, path, **{"access-control-request-headers": asked})
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == APP
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "access-control-allow-credentials" not in answer.headers
    refused = await public.client.get("/api/v1/users/me", headers={"origin": APP})
    assert_envelope(refused, 401, "missing_token")
    assert refused.headers["access-control-allow-origin"] == APP
    shown = refused.headers["access-control-expose-headers"]
    assert {"ETag", "RateLimit", "X-Request-Id"} <= {one.strip() for one in shown.split(",")}
    assert {"Origin", "Authorization"} <= {
        one.strip() for field in refused.headers.get_list("vary") for one in field.split(",")
    }


async def test_another_origin_may_not(public: Gateway) -> None:
    answer = await preflight(public, "/api/v1/users/me", origin="https://evil.example")
    assert "access-control-allow-origin" not in answer.headers
    plain = await public.client.get("/api/v1/users/me", headers={"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in plain.headers


async def test_what_providers_send_to_is_for_no_page(public: Gateway) -> None:
    for path in ("/api/v1/webhooks/stripe", "/livez", "/readyz"):
        answer = await preflight(public, path)
        assert_envelope(answer, 405, "method_not_allowed")
        assert "access-control-allow-origin" not in answer.headers


async def test_without_origins_nothing_is_for_pages(gateway: Gateway) -> None:
    answer = await preflight(gateway, "/api/v1/users/me")
    assert_envelope(answer, 405, "method_not_allowed")
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "text",
    ["app.example.com", "https://app.example.com/", "https://App.example.com", "null", "a b"],
)
def test_what_is_no_origin_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="SLUICE_CORS_ORIGINS"):
        read_origins(text)
    assert read_origins(" * ") == ("*",)
    assert read_origins(None) == ()


# What holds handlers to their types -------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [{"status": "failed"}, {"status": "ok", "more": 1}, {}, [{"status": "ok"}]]
)
def test_an_answer_of_another_form_would_be_noticed(data: Any) -> None:
    one: Operation = next(one for one in OPERATIONS if one.name == "read_status")
    assert_conforms(Shown({"status": "ok"}), one)
    with pytest.raises((AssertionError, msgspec.ValidationError)):
        assert_conforms(Shown(data), one)
