"""Rates of tokens, addresses that fail, and what happens to both when Redis is away or hangs."""

import asyncio
import re
import socket
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.limiting import Counters, Limits, Rate, address_of, parse_networks
from shared import db
from shared.sealing import KeyRing
from shared.settings import Endpoints, SettingsError
from tests.gateway.conftest import SECRET, Gateway, add_source, assert_envelope, running_gateway
from tests.gateway.test_api import add_token, get
from workers.stack.servers import Servers

ME = "/api/v1/users/me"


@pytest.fixture
async def limits(endpoints: Endpoints) -> AsyncIterator[Limits]:
    """Three a minute, and three failures; at a moment that no window ends at."""
    counters = Counters(endpoints.redis)
    yield Limits(counters, Rate(3, 60), Rate(3, 60), now=lambda: 600_000_010.0)
    await counters.close()


def name() -> str:
    return str(uuid.uuid4())


async def test_a_token_has_its_rate_in_all_gateways_together(
    endpoints: Endpoints, limits: Limits
) -> None:
    other = Limits(Counters(endpoints.redis), limits.rate, now=limits.now)
    token = name()
    left = [(await one.charge(token)) for one in (limits, other, limits, other, limits)]
    assert [quota.remaining for quota in left if quota] == [2, 1, 0, -1, -2]
    assert left[0] is not None
    assert left[0].resets_in_s == 50
    assert (await limits.charge(name())).remaining == 2  # type: ignore[union-attr]
    await other.counters.close()


async def test_who_comes_at_once_is_counted_one_by_one(endpoints: Endpoints) -> None:
    """However they were added up: every number is had once, and two gateways miss none."""
    ours, others = (Limits(Counters(endpoints.redis), Rate(1000, 3600)) for _ in range(2))
    token = name()
    quotas = await asyncio.gather(
        *(one.charge(token) for _ in range(100) for one in (ours, others))
    )
    assert sorted(quota.remaining for quota in quotas if quota) == list(range(800, 1000))
    assert not ours.counters._waiting
    assert not ours.counters._adding
    for one in (ours, others):
        await one.counters.close()


async def test_the_next_window_begins_anew(endpoints: Endpoints) -> None:
    now = [600_000_010.0]
    limits = Limits(Counters(endpoints.redis), Rate(1, 60), now=lambda: now[0])
    token = name()
    assert [(await limits.charge(token)).remaining for _ in range(2)] == [0, -1]  # type: ignore[union-attr]
    now[0] += 50
    assert (await limits.charge(token)).remaining == 0  # type: ignore[union-attr]
    await limits.counters.close()


async def test_an_address_that_fails_waits_longer_each_time(limits: Limits) -> None:
    address = name()
    for _ in range(2):
        await limits.fail(address)
    assert await limits.wait_s(address) == 0
    await limits.fail(address)
    assert 4 <= await limits.wait_s(address) <= 5
    await limits.counters.ask(lambda storage: storage.clear(f"waits/{address}"))
    for _ in range(3):
        await limits.fail(address)
    assert 9 <= await limits.wait_s(address) <= 10
    assert await limits.wait_s(name()) == 0


async def test_without_redis_a_process_counts_for_itself() -> None:
    """A port that nobody listens on is noticed once, and then not asked for a second."""
    limits = Limits(Counters("redis://127.0.0.1:1/0"), Rate(2, 60), Rate(1, 60))
    token = name()
    assert [(await limits.charge(token)).remaining for _ in range(3)] == [1, 0, -1]  # type: ignore[union-attr]
    assert not limits.counters.is_shared
    await limits.fail("192.0.2.1")
    assert await limits.wait_s("192.0.2.1") == 5
    await limits.counters.close()


async def test_a_redis_that_hangs_costs_one_request_its_patience() -> None:
    """It is connected to and never answers: one wait of 50 ms, then none for a second."""

    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    limits = Limits(Counters(f"redis://127.0.0.1:{port}/0"), Rate(1000, 60))
    started_at = time.perf_counter()
    await limits.charge("t")
    first_s = time.perf_counter() - started_at
    started_at = time.perf_counter()
    for _ in range(200):
        assert await limits.charge("t") is not None
    others_s = time.perf_counter() - started_at
    assert 0.04 < first_s < 0.5
    assert others_s < 0.5  # 200 waits would be ten seconds
    await limits.counters.close()
    server.close()


async def test_a_redis_that_comes_back_counts_again(servers: Servers) -> None:
    counters = Counters(servers.endpoints().redis)
    limits = Limits(counters, Rate(10, 60))
    token = name()
    await limits.charge(token)
    good, counters._shared = counters._shared, Counters("redis://127.0.0.1:1/0")._shared
    await limits.charge(token)
    assert not counters.is_shared
    counters._shared = good
    counters._left_alone_until = 0.0
    quota = await limits.charge(token)
    assert counters.is_shared
    assert quota is not None
    assert quota.remaining == 8  # the one that was counted here is forgotten
    await counters.close()


@pytest.mark.parametrize("text", ["", "600", "600/week", "0/minute", "-1/minute", "x/minute", "1/"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="SLUICE_API_RATE"):
        Limits.of("", text, "off")


def test_rates_are_read() -> None:
    assert Rate.parse("600/minute", "X") == Rate(600, 60)
    assert Rate.parse(" 5 / second ", "X") == Rate(5, 1)
    assert Rate.parse("off", "X") is None


@pytest.mark.parametrize(
    ("client", "forwarded", "trusted", "found"),
    [
        ("192.0.2.1", "203.0.113.9", "", "192.0.2.1"),
        ("10.0.0.1", "203.0.113.9", "10.0.0.0/8", "203.0.113.9"),
        ("10.0.0.1", "1.1.1.1, 203.0.113.9", "10.0.0.0/8", "203.0.113.9"),
        ("10.0.0.1", "1.1.1.1, 203.0.113.9, 10.9.9.9", "10.0.0.0/8", "203.0.113.9"),
        ("10.0.0.1", "not an address", "10.0.0.0/8", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9, garbage", "10.0.0.0/8", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.0/8", "10.0.0.1"),
        ("::ffff:192.0.2.1", "", "", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "", "", "2001:db8:1:2::/64"),
        ("::1", "2001:db8:1:2::9", "::1", "2001:db8:1:2::/64"),
        ("10.0.0.1", "10.0.0.2", "10.0.0.0/8", "10.0.0.2"),
    ],
)
def test_the_address_is_the_last_one_that_can_be_believed(
    client: str, forwarded: str, trusted: str, found: str
) -> None:
    scope = {"client": (client, 1234)}
    assert address_of(scope, forwarded, parse_networks(trusted)) == found


def test_an_unknown_client_is_one_too() -> None:
    assert address_of({}, None, ()) == "unknown"
    with pytest.raises(SettingsError, match="SLUICE_TRUSTED_PROXIES"):
        parse_networks("10.0.0.0/8, proxy.example.com")


# Over HTTP --------------------------------------------------------------------------------------


async def running(endpoints: Endpoints, home: Path, **settings: Any) -> Any:
    keys = KeyRing.parse(endpoints.secret_key)
    async with db.connect(endpoints.database["owner"], "owner") as owner:
        await add_source(owner, keys, "stripe", SECRET)
    async with running_gateway(endpoints, home, **settings) as gateway:
        yield gateway


@pytest.fixture
async def few(endpoints: Endpoints, tmp_path: Path) -> AsyncIterator[Gateway]:
    """A gateway where a token may ask five times a day."""
    async for gateway in running(endpoints, tmp_path, api_rate="5/day"):
        yield gateway


@pytest.fixture
async def strict(endpoints: Endpoints, tmp_path: Path) -> AsyncIterator[Gateway]:
    """A gateway that believes a proxy on this machine, and where four failures are too many."""
    async for gateway in running(
        endpoints, tmp_path, api_failures="4/minute", trusted_proxies="127.0.0.0/8"
    ):
        yield gateway


async def test_answers_say_what_is_left_and_a_used_up_rate_is_429(few: Gateway) -> None:
    token = await add_token(few, "operator")
    for left in (4, 3, 2, 1, 0):
        path = ME if left % 2 else "/api/v1/tenants/nobody/entitlements"
        answer = await get(few, path, token)
        assert answer.status_code == (200 if left % 2 else 404)
        assert answer.headers["ratelimit-policy"] == '"default";q=5;w=86400'
        found = re.fullmatch(r'"default";r=(\d+);t=(\d+)', answer.headers["ratelimit"])
        assert found is not None
        assert int(found[1]) == left == int(answer.headers["x-ratelimit-remaining"])
        assert found[2] == answer.headers["x-ratelimit-reset"]
        assert answer.headers["x-ratelimit-limit"] == "5"
    refused = await get(few, ME, token)
    assert_envelope(refused, 429, "too_many_requests")
    assert 0 < int(refused.headers["retry-after"]) <= 86_400
    assert refused.headers["ratelimit"].startswith('"default";r=0;t=')
    # Another token has a rate of its own, and what providers send has none.
    assert (await get(few, ME, await add_token(few, "service"))).status_code == 200
    for number in range(7):
        assert (await few.post(b'{"id": "evt_%d"}' % number)).status_code == 200


async def test_an_address_that_fails_too_often_has_to_wait(strict: Gateway) -> None:
    token = await add_token(strict, "service")
    known = await add_token(strict, "service")
    address = {"x-forwarded-for": f"198.51.100.{uuid.uuid4().int % 250}"}
    mine = {"authorization": f"Bearer {known}", **address}
    assert (await strict.client.get(ME, headers=mine)).status_code == 200
    for value in ("Bearer slu_wrong", "Bearer slu_other", "Basic x", "Bearer"):
        answer = await strict.client.get(ME, headers={"authorization": value, **address})
        assert answer.status_code == 401
    answer = await strict.client.get(ME, headers={"authorization": "Bearer slu_wrong", **address})
    assert_envelope(answer, 429, "too_many_requests")
    assert 1 <= int(answer.headers["retry-after"]) <= 5
    # Not even a right one is looked up now; whoever was let in before goes on.
    right = {"authorization": f"Bearer {token}"}
    assert (await strict.client.get(ME, headers={**right, **address})).status_code == 429
    assert (await strict.client.get(ME, headers=mine)).status_code == 200
    # Another address is not concerned, nor is what providers send.
    elsewhere = {"x-forwarded-for": "203.0.113.77"}
    assert (await strict.client.get(ME, headers={**right, **elsewhere})).status_code == 200
    assert (await strict.post(b'{"id": "evt_1"}', headers=address)).status_code == 200
