"""Integrations: what is shown of a source, and how its secret is rotated under load."""

import asyncio
import base64
import json
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from shared import db
from shared.providers import providers
from shared.providers.base import Configured
from shared.rotation import overlap_s
from shared.sealing import KeyRing
from shared.settings import Endpoints, Settings, SettingsError
from tests.gateway.conftest import (
    SECRET,
    Gateway,
    add_source,
    assert_envelope,
    event,
    running_gateway,
)
from tests.gateway.test_orders import PAUSE, add_token, post, status_of
from tests.support.stack import Stack, drain
from workers import trail

PATH = "/api/v1/integrations"
ROTATE = f"{PATH}/stripe/rotate-secret"
HMAC = {"signature": {"header": "X-Signature"}}


@pytest.fixture
async def operated(endpoints: Endpoints, tmp_path: Path) -> AsyncIterator[tuple[Gateway, Stack]]:
    """A gateway with the source "stripe", and a worker that the test drives."""
    async with serving(endpoints, tmp_path, {}) as found:
        yield found


@asynccontextmanager
async def serving(
    endpoints: Endpoints, home: Path, senders: dict[str, tuple[str, dict[str, Any], str]]
) -> AsyncIterator[tuple[Gateway, Stack]]:
    keys = KeyRing.parse(endpoints.secret_key)
    async with db.connect(endpoints.database["owner"], "owner") as owner:
        await add_source(owner, keys, "stripe", SECRET)
        for name, (provider, settings, secret) in senders.items():
            await add_source(owner, keys, name, secret)
            await owner.execute(
                "UPDATE sources SET provider = $2, settings = $3, livemode = NULL WHERE name = $1",
                name, provider, settings,
            )  # fmt: skip
    async with running_gateway(endpoints, home) as gateway, Stack.open(endpoints) as stack:
        yield gateway, stack


async def applied(gateway: Gateway, stack: Stack, token: str, url: str) -> dict[str, Any]:
    """Have what was ordered carried out, and the gateway learn of it."""
    await drain(stack.crew)
    found = assert_envelope(await status_of(gateway, token, url), 200, None)
    await asyncio.sleep(1.3)
    return found


async def shown(gateway: Gateway, token: str, name: str = "stripe") -> dict[str, Any]:
    return assert_envelope(await status_of(gateway, token, f"{PATH}/{name}"), 200, None)


# What is shown ----------------------------------------------------------------------------------


async def test_a_source_is_shown_as_it_is(operated: tuple[Gateway, Stack]) -> None:
    gateway, stack = operated
    token = await add_token(gateway, "service")
    fresh = await shown(gateway, token)
    assert fresh["health"]["lastReceivedAt"] is None
    assert fresh["health"]["silentSince"] == fresh["createdAt"]
    assert (fresh["isPaused"], fresh["pausedAt"], fresh["hasApiKey"]) == (False, None, False)
    assert fresh["webhookUrl"] == f"http://127.0.0.1:{gateway.port}/api/v1/webhooks/stripe"
    assert fresh["ingestUrl"] is None
    assert "customer.subscription.updated" in fresh["eventTypes"]
    assert (fresh["provider"], fresh["livemode"], fresh["tenant"]) == ("stripe", True, None)
    [secret] = fresh["secrets"]
    assert (secret["label"], secret["state"], secret["retiresAt"]) == ("0.1", "active", None)
    assert secret["keyId"] == gateway.keys.first

    await gateway.post(event("evt_1"))
    await gateway.post(event("evt_2"))
    health = (await shown(gateway, token))["health"]
    assert health["lastReceivedAt"] == health["silentSince"] is not None
    assert (health["unfinished"], health["dead"]) == (2, 0)
    assert 0 <= health["oldestUnfinishedS"] < 30
    assert (health["providerInstalled"], health["isReadable"]) == (True, True)
    await drain(stack.crew)
    health = (await shown(gateway, token))["health"]
    assert health["lastSettledAt"] is not None
    assert (health["unfinished"], health["oldestUnfinishedS"]) == (0, None)


async def test_the_dead_are_counted_until_they_run_again(operated: tuple[Gateway, Stack]) -> None:
    gateway, stack = operated
    token = await add_token(gateway)
    await gateway.post(b"[]")  # verified, and unreadable
    await drain(stack.crew)
    assert (await shown(gateway, token))["health"]["dead"] == 1
    await gateway.owner.execute(
        "INSERT INTO settlements (tracking_id, run, source_id, status, outcome, attempts)"
        " SELECT tracking_id, 2, source_id, 'processed', 'applied', 1 FROM settlements"
    )
    assert (await shown(gateway, token))["health"]["dead"] == 0


async def test_silence_is_told_also_where_the_last_event_is_far_back(
    operated: tuple[Gateway, Stack], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the newest events are looked through; what lies before them was before them."""
    gateway, _ = operated
    await add_source(gateway.owner, gateway.keys, "quiet", "whsec_quiet")
    monkeypatch.setattr("shared.store.integrations.LOOKED_THROUGH", 3)
    for number in range(4):
        await gateway.post(event(f"evt_{number}"))
    health = (await shown(gateway, await add_token(gateway), "quiet"))["health"]
    assert health["lastReceivedAt"] is None
    second = await gateway.owner.fetchval(
        "SELECT received_at FROM inbox ORDER BY received_at OFFSET 1 LIMIT 1"
    )
    assert datetime.fromisoformat(health["silentSince"]) == second


async def test_the_list_has_pages(operated: tuple[Gateway, Stack]) -> None:
    gateway, _ = operated
    for name in ("acme", "zeta"):
        await add_source(gateway.owner, gateway.keys, name, f"whsec_{name}")
    await add_source(gateway.owner, gateway.keys, "gone", "whsec_gone")
    await gateway.owner.execute("UPDATE sources SET removed_at = now() WHERE name = 'gone'")
    token = await add_token(gateway, "service")
    found, cursor = [], ""
    while True:
        page = (await status_of(gateway, token, f"{PATH}?limit=2{cursor}")).json()
        found += [one["name"] for one in page["data"]]
        if not page["meta"]["hasMore"]:
            break
        cursor = f"&cursor={page['meta']['next']}"
    assert found == ["acme", "stripe", "zeta"]


async def test_tenants_see_no_source(gateway: Gateway) -> None:
    token = await add_token(gateway, "tenant:acme")
    assert_envelope(await status_of(gateway, token, PATH), 403, "forbidden")
    for name in ("stripe", "nobody"):
        assert_envelope(await status_of(gateway, token, f"{PATH}/{name}"), 404, "not_found")


async def test_what_is_not_there_is_404(gateway: Gateway) -> None:
    token = await add_token(gateway)
    for name in ("nobody", "operator", "sluice-handlers"):
        assert_envelope(await status_of(gateway, token, f"{PATH}/{name}"), 404, "not_found")


async def test_a_provider_that_is_not_installed_is_said(operated: tuple[Gateway, Stack]) -> None:
    gateway, _ = operated
    token = await add_token(gateway)
    await add_source(gateway.owner, gateway.keys, "odd", "whsec_odd")
    await gateway.owner.execute("UPDATE sources SET provider = 'acme' WHERE name = 'odd'")
    found = await shown(gateway, token, "odd")
    health = found["health"]
    assert (health["providerInstalled"], health["isReadable"]) == (False, False)
    assert found["eventTypes"] == []
    rotated = await post(gateway, f"{PATH}/odd/rotate-secret", token, {"secret": "x"})
    assert_envelope(rotated, 503, "source_unreadable")


async def test_the_public_address_is_shown(endpoints: Endpoints, tmp_path: Path) -> None:
    public = "https://hooks.example.com/sluice/"
    async with running_gateway(endpoints, tmp_path, public_url=public) as gateway:
        await add_source(gateway.owner, gateway.keys, "stripe", SECRET)
        found = await shown(gateway, await add_token(gateway))
    assert found["webhookUrl"] == "https://hooks.example.com/sluice/api/v1/webhooks/stripe"


@pytest.mark.parametrize("url", ["hooks.example.com", "ftp://example.com", "https://x?y=z", "//x"])
def test_what_is_no_address_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_PUBLIC_URL", url)
    with pytest.raises(SettingsError, match="SLUICE_PUBLIC_URL"):
        Settings.read()


# Pausing ----------------------------------------------------------------------------------------


async def test_a_paused_source_is_answered_and_shown_as_paused(
    operated: tuple[Gateway, Stack],
) -> None:
    gateway, stack = operated
    token = await add_token(gateway)
    placed = (await post(gateway, PAUSE, token, {"reason": "why"})).json()["data"]
    assert (await applied(gateway, stack, token, placed["statusUrl"]))["state"] == "applied"
    sent = await gateway.post(event("evt_1"))
    assert_envelope(sent, 200, None)
    await drain(stack.crew)
    found = await shown(gateway, token)
    assert (found["isPaused"], found["pausedBy"]) == (True, "token:ci")
    assert found["health"]["unfinished"] == 1
    resumed = await post(gateway, f"{PATH}/stripe/resume", token)
    await applied(gateway, stack, token, resumed.json()["data"]["statusUrl"])
    await drain(stack.crew)
    found = await shown(gateway, token)
    assert (found["isPaused"], found["health"]["unfinished"]) == (False, 0)


# Rotating ---------------------------------------------------------------------------------------


async def test_a_given_secret_works_beside_the_old_one(operated: tuple[Gateway, Stack]) -> None:
    gateway, stack = operated
    token = await add_token(gateway)
    answer = await post(
        gateway, ROTATE, token, {"secret": "whsec_new", "overlap": "2h", "reason": "leaked"}
    )
    data = assert_envelope(answer, 202, None)
    assert (data["label"], data["replaces"], data["overlapS"]) == ("1.2", "0.1", 7200)
    assert data["secret"] is None
    assert_envelope(await gateway.post(event("evt_0"), secret="whsec_new"), 401, "wrong_signature")
    await applied(gateway, stack, token, data["statusUrl"])
    for number, secret in enumerate(("whsec_new", SECRET)):
        assert_envelope(await gateway.post(event(f"evt_{number}"), secret=secret), 200, None)
    labels = await gateway.owner.fetch("SELECT secret FROM inbox WHERE event_id LIKE 'evt_%'")
    assert {row["secret"] for row in labels} == {"1.2", "0.1"}
    new, old = (await shown(gateway, token))["secrets"]
    assert (new["label"], new["state"], new["addedBy"]) == ("1.2", "active", "token:ci")
    assert (old["label"], old["state"], old["addedBy"]) == ("0.1", "retiring", None)
    retires_at = datetime.fromisoformat(old["retiresAt"])
    assert timedelta(hours=1.9) < retires_at - datetime.now(UTC) < timedelta(hours=2)


async def test_what_was_loaded_before_ends_by_time(operated: tuple[Gateway, Stack]) -> None:
    """No new version tells the gateway: it looks at the clock for every request."""
    gateway, stack = operated
    token = await add_token(gateway)
    data = (await post(gateway, ROTATE, token, {"secret": "whsec_new", "overlap": "3s"})).json()
    await applied(gateway, stack, token, data["data"]["statusUrl"])
    assert_envelope(await gateway.post(event("evt_1")), 200, None)
    configuration = await gateway.owner.fetchval("SELECT max(version) FROM configuration")
    await asyncio.sleep(2.5)
    assert_envelope(await gateway.post(event("evt_2")), 401, "wrong_signature")
    assert_envelope(await gateway.post(event("evt_3"), secret="whsec_new"), 200, None)
    assert await gateway.owner.fetchval("SELECT max(version) FROM configuration") == configuration
    assert (await shown(gateway, token))["secrets"][1]["state"] == "retired"


async def test_without_overlap_the_old_one_ends_with_the_order(
    operated: tuple[Gateway, Stack],
) -> None:
    gateway, stack = operated
    token = await add_token(gateway)
    data = (await post(gateway, ROTATE, token, {"secret": "whsec_new", "overlap": "0"})).json()
    await applied(gateway, stack, token, data["data"]["statusUrl"])
    assert_envelope(await gateway.post(event("evt_1")), 401, "wrong_signature")
    assert_envelope(await gateway.post(event("evt_1"), secret="whsec_new"), 200, None)


SENDERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "standard": ("standard-webhooks", {}, "whsec_" + base64.b64encode(b"o" * 24).decode()),
    "hmac-text": ("hmac", HMAC, "old"),
    "hmac-hex": ("hmac", {"signature": {"header": "X-S", "secret_encoding": "hex"}}, "6f6c64"),
    "hmac-base64": ("hmac", {"signature": {"header": "X-S", "secret_encoding": "base64"}}, "b2xk"),
    "bearer": ("bearer", {}, "old"),
    "basic": ("basic", {}, "acme:old"),
}


async def test_where_the_scheme_leaves_it_to_us_a_secret_is_made(
    endpoints: Endpoints, tmp_path: Path
) -> None:
    """It is shown once, proves the sender's requests, and nobody could guess it."""
    async with serving(endpoints, tmp_path, SENDERS) as (gateway, stack):
        token = await add_token(gateway)
        made = {}
        for name in SENDERS:
            answer = await post(gateway, f"{PATH}/{name}/rotate-secret", token)
            data = assert_envelope(answer, 202, None)
            assert len(data["secret"]) >= 43
            assert answer.headers["cache-control"] == "no-store"
            made[name] = data["secret"]
        assert made["basic"].startswith("acme:")
        assert made["standard"].startswith("whsec_")
        await drain(stack.crew)
        await asyncio.sleep(1.3)
        for name, (kind, settings, old) in SENDERS.items():
            provider = providers()[kind].for_source(Configured(settings))
            for number, secret in enumerate((old, made[name])):
                body = json.dumps({"id": f"{name}-{number}", "type": "t"}).encode()
                headers = provider.sign(body, secret, datetime.now(UTC))
                sent = await gateway.client.post(
                    f"/api/v1/webhooks/{name}", content=body, headers=list(headers)
                )
                assert_envelope(sent, 200, None)
        for path in (PATH, *(f"{PATH}/{name}" for name in SENDERS)):
            text = (await status_of(gateway, token, path)).text
            assert not any(secret in text for secret in made.values())


@pytest.mark.parametrize(
    ("kind", "secret"),
    [("svix", "whsec_b29v"), ("standard-webhooks", "whpk_" + base64.b64encode(b"p" * 32).decode())],
)
async def test_what_the_provider_gives_must_be_said(
    endpoints: Endpoints, tmp_path: Path, kind: str, secret: str
) -> None:
    async with serving(endpoints, tmp_path, {"acme": (kind, {}, secret)}) as (gateway, _):
        token = await add_token(gateway)
        for name in ("stripe", "acme"):
            answer = await post(gateway, f"{PATH}/{name}/rotate-secret", token, {})
            assert_envelope(answer, 422, "invalid_body")
            assert answer.json()["error"]["details"][0]["pointer"] == "/secret"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"secret": ""}, "/secret"),
        ({"secret": SECRET}, "/secret"),
        ({"secret": "x" * 5000}, "/secret"),
        ({"secret": 7}, "/secret"),
        ({"secret": "new", "overlap": "1y"}, ""),
        ({"secret": "new", "overlap": "7"}, ""),
        ({"secret": "new", "overlap": "91d"}, ""),
        ({"secret": "new", "overlap": "-1h"}, ""),
        ({"secret": "new", "slot": -1}, "/slot"),
        ({"secret": "new", "slot": "0"}, "/slot"),
        ({"secrets": "new"}, ""),
    ],
)
async def test_what_cannot_be_is_refused(
    gateway: Gateway, body: dict[str, Any], pointer: str
) -> None:
    answer = await post(gateway, ROTATE, await add_token(gateway), body)
    assert_envelope(answer, 422, "invalid_body")
    assert answer.json()["error"]["details"][0]["pointer"] == pointer
    assert "new" not in answer.json()["error"]["details"][0]["message"]
    assert await gateway.count("inbox") == 0


def test_durations() -> None:
    said = {"0": 0, "0s": 0, "90s": 90, "30m": 1800, "24h": 86400, "7d": 604800, "2w": 1209600}
    assert {text: overlap_s(text) for text in said} == said


async def test_of_several_secrets_one_is_named(operated: tuple[Gateway, Stack]) -> None:
    gateway, stack = operated
    await add_source(gateway.owner, gateway.keys, "two", "whsec_a", "whsec_b")
    await asyncio.sleep(1.3)
    token = await add_token(gateway)
    path = f"{PATH}/two/rotate-secret"
    unclear = await post(gateway, path, token, {"secret": "whsec_c"})
    assert_envelope(unclear, 409, "conflict")
    assert "0, 1" in unclear.json()["error"]["message"]
    absent = await post(gateway, path, token, {"secret": "whsec_c", "slot": 7})
    assert_envelope(absent, 409, "conflict")
    answer = await post(gateway, path, token, {"secret": "whsec_c", "slot": 1})
    data = assert_envelope(answer, 202, None)
    assert (data["label"], data["replaces"]) == ("2.2", "1.1")
    await applied(gateway, stack, token, data["statusUrl"])
    # It ends already.
    again = await post(gateway, path, token, {"secret": "whsec_d", "slot": 1})
    assert_envelope(again, 409, "conflict")


async def test_the_same_rotation_again_makes_no_other_secret(
    operated: tuple[Gateway, Stack],
) -> None:
    """The first answer, but for the secret: that is shown once."""
    gateway, stack = operated
    await add_source(gateway.owner, gateway.keys, "acme", "old")
    await gateway.owner.execute(
        "UPDATE sources SET provider = 'bearer', livemode = NULL WHERE name = 'acme'"
    )
    await asyncio.sleep(1.3)
    token = await add_token(gateway)
    path = f"{PATH}/acme/rotate-secret"
    body = {"slot": 0, "overlap": "1h"}
    answers = await asyncio.gather(
        *(post(gateway, path, token, body, idempotency_key="k") for _ in range(4))
    )
    fresh = [one for one in answers if "x-idempotency-replayed" not in one.headers]
    [first] = [one for one in fresh if one.status_code == 202]
    assert {one.status_code for one in answers} <= {202, 409}
    data = assert_envelope(first, 202, None)
    await applied(gateway, stack, token, data["statusUrl"])
    again = await post(gateway, path, token, body, idempotency_key="k")
    assert assert_envelope(again, 202, None) == {**data, "secret": None}
    assert again.headers["x-idempotency-replayed"] == "true"
    other = await post(gateway, path, token, {**body, "secret": "mine"}, idempotency_key="k")
    assert_envelope(other, 422, "key_reused")
    assert await gateway.owner.fetchval("SELECT count(*) FROM source_secrets") == 3


async def test_rotating_under_load_refuses_no_request(operated: tuple[Gateway, Stack]) -> None:
    """Senders with the old secret and with the new one, before, during and after."""
    gateway, stack = operated
    token = await add_token(gateway)
    data = (await post(gateway, ROTATE, token, {"secret": "whsec_new", "overlap": "4s"})).json()
    data = data["data"]
    statuses: dict[str, list[tuple[float, int]]] = {SECRET: [], "whsec_new": []}
    ends_at: dict[str, float] = {SECRET: float("inf"), "whsec_new": time.monotonic() + 60}
    is_over = False

    async def send(secret: str) -> None:
        while not is_over:
            began = time.monotonic()
            answer = await gateway.post(event(f"evt_{uuid.uuid4()}"), secret=secret)
            statuses[secret].append((began, answer.status_code))

    old = [asyncio.create_task(send(SECRET)) for _ in range(4)]
    await asyncio.sleep(0.3)
    await drain_operator(stack)
    retires_at = await gateway.owner.fetchval(
        "SELECT extract(epoch FROM retires_at - now())::float8 FROM source_secrets WHERE slot = 0"
    )
    ends_at[SECRET] = time.monotonic() + retires_at
    assert (
        assert_envelope(await status_of(gateway, token, data["statusUrl"]), 200, None)["state"]
        == "applied"
    )
    await asyncio.sleep(2)  # as the caller is told to wait
    new = [asyncio.create_task(send("whsec_new")) for _ in range(4)]
    await asyncio.sleep(4)
    is_over = True
    await asyncio.gather(*old, *new)

    assert {status for _, status in statuses["whsec_new"]} == {200}
    before = {status for at, status in statuses[SECRET] if at < ends_at[SECRET] - 0.3}
    after = {status for at, status in statuses[SECRET] if at > ends_at[SECRET] + 0.3}
    assert before == {200}
    assert after == {401}
    both = [at for at, status in statuses[SECRET] if status == 200]
    assert max(both) > min(at for at, _ in statuses["whsec_new"]), "they never worked together"
    async with stack.owner.connection() as conn:
        assert [one async for one in trail.verify(conn, None, lambda tally: None)] == []


async def drain_operator(stack: Stack) -> None:
    """Carry out orders only: a stream of events would never be drained."""
    from workers.process import visit

    rows = await stack.fetch(
        "SELECT l.id FROM lanes l JOIN sources s ON s.id = l.source_id WHERE s.name = 'operator'"
    )
    async with stack.crew.db.connection() as conn:
        await stack.crew.surroundings.refresh(conn)
    for row in rows:
        await visit(stack.crew, row["id"])
