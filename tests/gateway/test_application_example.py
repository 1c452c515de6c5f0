"""
What applications copy from docs/applications.md: the client, against a real gateway.

A relay between them counts what is asked, and stands for an outage.
"""

import asyncio
import importlib.util
import inspect
import json
import re
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from shared.store import tokens
from tests.gateway.conftest import Gateway
from tests.support.relay import Relay, relay

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "application" / "sluice_client.py"
PAGE = (ROOT / "docs" / "applications.md").read_text()

FEATURES = ["seats", "sso", "calls", "chat", "disks", "nothing"]
AWAY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def load() -> Any:
    spec = importlib.util.spec_from_file_location("sluice_client", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Application(NamedTuple):
    """A gateway in which acme has something, and what stands before it."""

    gateway: Gateway
    relay: Relay

    async def client(self, scope: str = "service", **options: Any) -> Any:
        token = tokens.new_token()
        digest = tokens.digest_of(token)
        await tokens.create(
            self.gateway.owner, uuid.uuid4(), "app", scope, digest, "operator:test", None
        )
        return load().Sluice(self.relay.url, token, FEATURES, timeout_s=10, **options)

    async def grant(self, features: Mapping[str, str], ends_at: datetime | None = None) -> None:
        """Values are JSON."""
        for feature, value in features.items():
            await self.gateway.owner.execute(
                "INSERT INTO grants (object, plan, feature, tenant, value, rank, valid_until,"
                " catalog_version) VALUES (7, 'manual', $1, 'acme', $2, 0, $3, 0)",
                feature,
                value,
                ends_at,
            )


@pytest.fixture
async def application(gateway: Gateway) -> AsyncIterator[Application]:
    async with relay(gateway.port) as relaying:
        yield Application(gateway, relaying)


async def value(client: Any, feature: str, tenant: str = "acme") -> Any:
    return await asyncio.to_thread(client.value, tenant, feature)


async def may(client: Any, feature: str, tenant: str = "acme") -> bool:
    return bool(await asyncio.to_thread(client.may, tenant, feature))


async def test_what_a_tenant_may_use(application: Application) -> None:
    values = {"seats": "5", "sso": "true", "calls": '"unlimited"', "chat": "false", "disks": "0"}
    await application.grant(values)
    client = await application.client()
    said = {feature: await value(client, feature) for feature in (*values, "nothing")}
    assert said == {
        "seats": 5, "sso": True, "calls": "unlimited", "chat": False, "disks": 0, "nothing": None,
    }  # fmt: skip
    assert [feature for feature in said if await may(client, feature)] == ["seats", "sso", "calls"]
    assert await may(client, "seats", "nobody/ever heard") is False


async def test_it_is_asked_once_for_all_features_while_it_is_fresh(
    application: Application,
) -> None:
    await application.grant({"seats": "5"})
    client = await application.client(fresh_s=3600)
    for feature in ("seats", "sso", "seats"):
        await value(client, feature)
    assert len(application.relay.seen) == 1
    await application.grant({"sso": "true"})
    assert await may(client, "sso") is False
    client.forget("acme")
    assert await may(client, "sso") is True
    assert len(application.relay.seen) == 2


async def test_it_is_asked_again_when_it_is_not(application: Application) -> None:
    client = await application.client(fresh_s=0)
    assert await may(client, "sso") is False
    await application.grant({"sso": "true"})
    assert await may(client, "sso") is True


async def test_what_did_not_change_is_not_sent_again(application: Application) -> None:
    await application.grant({"seats": "5"})
    client = await application.client(fresh_s=0)
    assert [await value(client, "seats") for _ in range(3)] == [5, 5, 5]
    assert application.relay.answered == [200, 304, 304]
    await application.grant({"sso": "true"})
    assert await may(client, "sso") is True
    assert application.relay.answered == [200, 304, 304, 200]


async def test_a_feature_that_nobody_asks_for_is_a_mistake(application: Application) -> None:
    client = await application.client()
    with pytest.raises(LookupError, match="'seat' is none of"):
        client.may("acme", "seat")


async def test_an_end_is_asked_for_at_its_time(application: Application) -> None:
    """Long before the answer would have been too old."""
    await application.grant({"seats": "5"}, datetime.now(UTC) + timedelta(seconds=1.5))
    client = await application.client(fresh_s=3600)
    assert await value(client, "seats") == 5
    await asyncio.sleep(2)
    assert await value(client, "seats") is None
    assert len(application.relay.seen) == 2


async def test_while_it_is_away_what_is_known_goes_on(application: Application) -> None:
    await application.grant({"seats": "5"})
    client = await application.client(fresh_s=0, retry_s=0, otherwise={"sso": True, "chat": 7})
    assert await value(client, "seats") == 5
    application.relay.refusals[:] = [AWAY] * 6
    assert await value(client, "seats") == 5
    # Known not to have it is known, too; of others nothing is.
    assert await may(client, "sso") is False
    assert await may(client, "sso", "globex") is True
    assert await value(client, "chat", "globex") == 7
    assert await may(client, "seats", "globex") is False
    application.relay.refusals.clear()
    assert await may(client, "sso", "globex") is False


async def test_and_not_for_ever(application: Application) -> None:
    await application.grant({"seats": "5"})
    client = await application.client(fresh_s=0, retry_s=0, stale_s=0, otherwise={"seats": 1})
    assert await value(client, "seats") == 5
    application.relay.refusals[:] = [AWAY]
    assert await value(client, "seats") == 1
    assert await value(client, "seats") == 5


async def test_and_no_value_beyond_its_end(application: Application) -> None:
    await application.grant({"seats": "5"}, datetime.now(UTC) + timedelta(seconds=1.5))
    await application.grant({"sso": "true"})
    client = await application.client(fresh_s=0, retry_s=0)
    assert await value(client, "seats") == 5
    application.relay.refusals[:] = [AWAY] * 3
    assert await value(client, "seats") == 5
    await asyncio.sleep(2)
    assert await value(client, "seats") is None
    assert await may(client, "sso") is True


async def test_who_is_away_is_not_asked_at_every_turn(
    application: Application, caplog: pytest.LogCaptureFixture
) -> None:
    client = await application.client(retry_s=3600)
    application.relay.refusals[:] = [AWAY] * 9
    for tenant in ("acme", "globex", "acme"):
        assert await may(client, "seats", tenant) is False
    assert len(application.relay.seen) == 1
    assert "Sluice cannot be asked" in caplog.text


async def test_nobody_there_is_away_too(application: Application) -> None:
    await application.grant({"seats": "5"})
    client = await application.client(fresh_s=0, retry_s=0)
    assert await value(client, "seats") == 5
    application.relay.gateway_port = 1
    assert await value(client, "seats") == 5


async def test_a_token_that_counts_no_more_takes_nothing_away_at_once(
    application: Application,
) -> None:
    """A token that ran out at night is no reason to lock every customer out."""
    await application.grant({"seats": "5"})
    client = await application.client(fresh_s=0, retry_s=0)
    assert await value(client, "seats") == 5
    await application.gateway.owner.execute("UPDATE tokens SET revoked_at = now()")
    async with asyncio.timeout(20):
        while application.relay.answered[-1] != 401:
            assert await value(client, "seats") == 5
            await asyncio.sleep(0.1)
    assert await value(client, "seats") == 5


async def test_a_tenants_token_is_for_that_tenant(application: Application) -> None:
    await application.grant({"seats": "5"})
    client = await application.client("tenant:globex")
    assert await value(client, "seats") is None
    assert application.relay.answered == [404]


async def test_memory_has_a_bound(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await application.client(fresh_s=3600)
    monkeypatch.setitem(type(client).value.__globals__, "MOST_TENANTS", 2)
    for tenant in ("a", "b", "c", "b", "c", "a"):
        await may(client, "seats", tenant)
    asked = [json.loads(one.body)["tenant"] for one in application.relay.seen]
    assert asked == ["a", "b", "c", "a"]


async def test_one_asks_and_the_others_go_on(application: Application) -> None:
    """A slow answer is waited for by one thread, not by all."""
    await application.grant({"seats": "5"})
    client = await application.client(fresh_s=0.01)
    assert await value(client, "seats") == 5
    await asyncio.sleep(0.05)
    application.relay.delay_s = 1.5
    begun_s = time.monotonic()
    slow = asyncio.create_task(value(client, "seats"))
    while len(application.relay.seen) < 2:
        await asyncio.sleep(0.01)
    assert await value(client, "seats") == 5
    assert time.monotonic() - begun_s < 1.4
    assert await slow == 5


async def test_what_the_page_asks_is_answered(application: Application) -> None:
    """Each address that it shows, as it stands there."""
    token = tokens.new_token()
    digest = tokens.digest_of(token)
    owner, client = application.gateway.owner, application.gateway.client
    await tokens.create(owner, uuid.uuid4(), "app", "service", digest, "operator:test", None)
    await application.grant({"seats": "5"})
    shown = re.findall(r"(?:\$SLUICE|`GET |`)(/[\w/.?=*&$-]+)", PAGE)
    asked = [
        path for path in dict.fromkeys(shown) if not path.endswith(("/check", "/api/v1/events"))
    ]
    assert len(asked) == 8
    cursor = ""
    for one in asked:
        path = one.replace("ID", "acme").replace("TENANT", "acme").replace("$NEXT", cursor)
        path = path.replace("wait=30s", "wait=1s")
        answer = await client.get(path, headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 200, (path, answer.text)
        if "/events" in path:
            cursor = answer.json()["meta"]["next"]


def test_the_page_names_what_the_client_has() -> None:
    """Its options, with their defaults."""
    assert "(../examples/application/sluice_client.py)" in PAGE
    options = {
        name: parameter.default
        for name, parameter in inspect.signature(load().Sluice).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    told = dict(re.findall(r"^\| `(\w+)` \| (?:`(\w+)`)? ?\|", PAGE, re.MULTILINE))
    assert {name: told[name] for name in options} == {
        name: "" if default is None else str(default) for name, default in options.items()
    }
