"""The read API: who may see what, and that it looks the same where nothing is to be seen."""

import uuid
from datetime import timedelta

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
