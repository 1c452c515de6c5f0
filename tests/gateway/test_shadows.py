"""A shadow is checked beside the real secrets, counted, and accepts nothing."""

import asyncio
from typing import Any

import pytest

from shared.sealing import SHADOW_SLOT
from tests.gateway.conftest import SECRET, Gateway, assert_envelope, event

NEW = "whsec_new"
COUNTS = ("both_accept", "only_real", "only_shadow", "both_refuse")


async def set_shadow(gateway: Gateway, version: int, secret: str = NEW, **more: Any) -> None:
    sealed = gateway.keys.seal(secret, source="stripe", slot=SHADOW_SLOT, version=version)
    async with gateway.owner.transaction():
        await gateway.owner.execute("DELETE FROM source_shadows")
        await gateway.owner.execute(
            "INSERT INTO source_shadows (source_id, version, key_id, nonce, ciphertext, added_by,"
            " provider, signature) SELECT id, $1, $2, $3, $4, 'test', $5, $6 FROM sources"
            " WHERE name = 'stripe'",
            version, sealed.key_id, sealed.nonce, sealed.ciphertext,
            more.get("provider"), more.get("signature"),
        )  # fmt: skip
        await gateway.owner.execute(
            "INSERT INTO configuration (version, actor, mode)"
            " SELECT max(version) + 1, 'test', 'live' FROM configuration"
        )
    await asyncio.sleep(1.4)


async def counts(gateway: Gateway, total: int) -> tuple[int, ...]:
    """What is written down, once it is so much."""
    async with asyncio.timeout(6):
        while True:
            row = await gateway.owner.fetchrow("SELECT * FROM source_shadows")
            found = tuple(row[name] for name in COUNTS)
            if sum(found) >= total:
                return found
            await asyncio.sleep(0.05)


@pytest.fixture
async def shadowed(gateway: Gateway) -> Gateway:
    await set_shadow(gateway, 5)
    return gateway


async def test_a_shadow_accepts_nothing_and_is_counted(shadowed: Gateway) -> None:
    assert_envelope(await shadowed.post(event("evt_1")), 200, None)
    assert_envelope(await shadowed.post(event("evt_2"), secret=NEW), 401, "wrong_signature")
    assert_envelope(await shadowed.post(event("evt_3"), secret="x"), 401, "wrong_signature")
    assert_envelope(
        await shadowed.post(event("evt_4"), secret=NEW, at=1_700_000_000), 401, "wrong_signature"
    )
    assert await counts(shadowed, 4) == (0, 1, 1, 2)
    assert await shadowed.count("inbox") == 1
    last = await shadowed.owner.fetchval("SELECT last_accepted_at FROM source_shadows")
    assert last is not None
    async with asyncio.timeout(6):
        while await shadowed.count("refusals") < 3:
            await asyncio.sleep(0.05)
    said = await shadowed.owner.fetch("SELECT cause, hint FROM refusals ORDER BY refused_at, id")
    assert said[0]["cause"] == "wrong_secret"
    assert "this source's shadow" in said[0]["hint"]


async def test_a_request_that_both_have_signed_counts_for_both(shadowed: Gateway) -> None:
    """As a sender signs while it changes over: two signatures in one header."""
    from tests.gateway.conftest import sign

    body = event("evt_1")
    both = f"{sign(body)},{sign(body, NEW).partition(',')[2]}"
    answer = await shadowed.client.post(
        "/api/v1/webhooks/stripe", content=body, headers={"stripe-signature": both}
    )
    assert_envelope(answer, 200, None)
    assert await counts(shadowed, 1) == (1, 0, 0, 0)


async def test_another_scheme_is_tried(gateway: Gateway) -> None:
    import hashlib
    import hmac

    await set_shadow(gateway, 6, "s3cret", provider="hmac", signature={"header": "X-Signature"})
    body = event("evt_1")
    mac = hmac.new(b"s3cret", body, hashlib.sha256).hexdigest()
    assert_envelope(await gateway.post(body, headers={"x-signature": mac}), 200, None)
    assert_envelope(await gateway.post(event("evt_2"), headers={"x-signature": mac}), 200, None)
    assert await counts(gateway, 2) == (1, 1, 0, 0)


async def test_what_was_counted_survives_other_changes_and_the_end(shadowed: Gateway) -> None:
    await shadowed.post(event("evt_1"))
    await shadowed.owner.execute(
        "INSERT INTO configuration (version, actor, mode)"
        " SELECT max(version) + 1, 'test', 'live' FROM configuration"
    )
    await asyncio.sleep(1.4)
    await shadowed.post(event("evt_2"))
    assert await counts(shadowed, 2) == (0, 2, 0, 0)


async def test_a_shadow_follows_its_sources_settings(gateway: Gateway) -> None:
    """What it takes from its source is taken anew, and what was counted before is not lost."""
    import hashlib
    import hmac

    def mac(body: bytes) -> str:
        return hmac.new(b"s3cret", body, hashlib.sha256).hexdigest()

    await gateway.owner.execute(
        "UPDATE sources SET provider = 'hmac', settings = $1 WHERE name = 'stripe'",
        {"signature": {"header": "X-Old"}},
    )
    await set_shadow(gateway, 6, "s3cret")
    body = event("evt_1")
    await gateway.post(body, headers={"x-old": mac(body)})
    await gateway.owner.execute(
        "UPDATE sources SET settings = $1 WHERE name = 'stripe'",
        {"signature": {"header": "X-New"}},
    )
    await gateway.owner.execute(
        "INSERT INTO configuration (version, actor, mode)"
        " SELECT max(version) + 1, 'test', 'live' FROM configuration"
    )
    await asyncio.sleep(1.4)
    await gateway.post(body, headers={"x-new": mac(body)})
    assert await counts(gateway, 2) == (0, 0, 2, 0)


@pytest.mark.parametrize("broken", ["secret", "provider"])
async def test_a_shadow_that_cannot_be_read_keeps_nothing_from_working(
    gateway: Gateway, broken: str
) -> None:
    if broken == "secret":
        await set_shadow(gateway, 5)
        await gateway.owner.execute("UPDATE source_shadows SET version = 6")
        await gateway.owner.execute(
            "INSERT INTO configuration (version, actor, mode)"
            " SELECT max(version) + 1, 'test', 'live' FROM configuration"
        )
        await asyncio.sleep(1.4)
    else:
        await set_shadow(gateway, 5, provider="not-installed")
    assert_envelope(await gateway.post(event()), 200, None)
    entrance = await gateway.deps.ingress.sources.find("stripe")
    assert entrance.shadow is None
    assert entrance.source.secrets[0].plaintext == SECRET
