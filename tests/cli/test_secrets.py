"""Secrets by the command line: rotated, ended, tried beside the real ones, sealed anew."""

import asyncio
import functools
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.sources import Sources
from shared.domain.commands import RotateSecret
from shared.sealing import KeyRing, SealingError, new_key
from shared.settings import Endpoints
from tests.cli.conftest import Sluice
from tests.cli.test_terminal import on_a_terminal
from tests.support.ordering import Ordering
from tests.support.stack import Stack

FILE = """
[sources.stripe]
provider = "stripe"
secrets = ["env:STRIPE_SECRET"]
livemode = true

[sources.acme]
provider = "standard-webhooks"
secrets = ["env:ACME_SECRET"]

[sources.polar]
provider = "polar"
secrets = ["whsec_polar"]
livemode = true
api_key = "polar_oat_1234567890"
"""
ACME = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
async def file(
    sluice: Sluice, stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    monkeypatch.setenv("STRIPE_SECRET", "whsec_old")
    monkeypatch.setenv("NEW_SECRET", "whsec_new")
    monkeypatch.setenv("ACME_SECRET", ACME)
    path = tmp_path / "sluice.toml"
    path.write_text(FILE)
    applied = await sluice("apply", path, "--yes")
    assert applied.code == 0, applied.err
    return path


async def rotate(sluice: Sluice, *more: str, source: str = "stripe") -> Any:
    said = await sluice(
        "sources", "rotate-secret", source, "--reason", "test", "--yes", "--json", *more
    )
    assert said.code == 0, said.err
    return said.json


async def opened(endpoints: Endpoints, name: str, keys: KeyRing | None = None) -> list[str]:
    """What a gateway holds for the source, once it has looked."""
    keys = keys or KeyRing.parse(endpoints.secret_key)
    sources = Sources(endpoints.database["gateway"], keys, timeout_s=5)
    await sources.start()
    try:
        return [one.plaintext for one in (await sources.find(name)).source.secrets]
    finally:
        await sources.close()


async def test_rotating_puts_the_new_one_beside_the_old_one(
    sluice: Sluice, stack: Stack, file: Path
) -> None:
    dry = await rotate(sluice, "--secret", "env:NEW_SECRET", "--dry-run")
    assert dry["dryRun"]
    words = ("sources", "rotate-secret", "stripe", "--secret", "env:NEW_SECRET", "--reason", "x")
    told = await sluice(*words, "--dry-run")
    assert "would be beside" in told.err
    assert "would work until" in told.err
    assert await stack.value("SELECT count(*) FROM source_secrets WHERE added_by IS NOT NULL") == 0
    done = await rotate(sluice, "--secret", "env:NEW_SECRET", "--overlap", "1h")
    assert {**dry, "oldRetiresAt": None} == {
        **done, "oldRetiresAt": None, "overlapS": 86400, "dryRun": True,
    }  # fmt: skip
    assert (done["secret"], done["overlapS"]) == (None, 3600)
    assert await opened(stack.endpoints, "stripe") == ["whsec_old", "whsec_new"]
    shown = (await sluice("sources", "show", "stripe", "--json")).json
    assert [(one["label"], one["state"]) for one in shown["secrets"]] == [
        (done["label"], "active"),
        (done["replaces"], "retiring"),
    ]
    assert shown["secrets"][0]["addedBy"] == "operator:ada"
    assert "whsec" not in json.dumps(shown)
    [record] = [
        one
        for one in (await sluice("audit", "list", "--json")).json["items"]
        if one["action"] == "secret.rotated"
    ]
    assert (record["actor"], record["reason"]) == ("operator:ada", "test")
    assert (await sluice("audit", "verify")).code == 0

    # The file still names the old one: nothing is written, and that is not all that is said.
    again = await sluice("apply", file, "--yes")
    assert again.code == 0
    assert "rotated out" in again.err
    assert "nothing changes" not in again.err
    second = await sluice(
        "sources", "rotate-secret", "stripe", "--reason", "x", "--secret", "env:NEW_SECRET"
    )
    assert (second.code, "already" in second.err) == (2, True)


async def test_a_secret_is_made_where_that_is_ours_to_do(
    sluice: Sluice, stack: Stack, file: Path
) -> None:
    refused = await sluice("sources", "rotate-secret", "stripe", "--reason", "x")
    assert refused.code == 2
    assert "has to be said" in refused.err
    said = await sluice("sources", "rotate-secret", "acme", "--reason", "x")
    assert said.code == 0
    made = said.out.strip()
    assert made.startswith("whsec_")
    assert await opened(stack.endpoints, "acme") == [ACME, made]
    assert made not in json.dumps((await sluice("audit", "list", "--json")).json)
    dry = await sluice("sources", "rotate-secret", "acme", "--reason", "x", "--dry-run", "--json")
    assert dry.json["secret"] is None


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("nobody", "--reason", "x"), 3),
        (("stripe", "--reason", " "), 2),
        (("stripe", "--reason", "x", "--secret", "whsec_in_the_history"), 2),
        (("stripe", "--reason", "x", "--secret", "env:NOT_SET"), 2),
        (("stripe", "--reason", "x", "--secret", "file:not-there"), 2),
        (("stripe", "--reason", "x", "--secret", "env:NEW_SECRET", "--overlap", "1y"), 2),
        (("stripe", "--reason", "x", "--secret", "env:NEW_SECRET", "--slot", "7"), 5),
    ],
)
async def test_what_cannot_be_rotated_is_said(
    sluice: Sluice, stack: Stack, file: Path, arguments: tuple[str, ...], code: int
) -> None:
    said = await sluice("sources", "rotate-secret", *arguments)
    assert said.code == code, said.err
    assert "whsec_in_the_history" not in said.err
    assert await stack.value("SELECT count(*) FROM source_secrets") == 3


async def test_an_old_secret_is_ended_early_and_the_last_one_never(
    sluice: Sluice, stack: Stack, file: Path
) -> None:
    done = await rotate(sluice, "--secret", "env:NEW_SECRET")
    only = await sluice("sources", "retire-secret", "stripe", done["label"], "--reason", "x")
    assert only.code == 5
    unknown = await sluice("sources", "retire-secret", "stripe", "9.9", "--reason", "x")
    assert unknown.code == 5
    ended = await sluice(
        "sources", "retire-secret", "stripe", done["replaces"], "--reason", "leaked", "--json"
    )
    assert ended.code == 0, ended.err
    assert await opened(stack.endpoints, "stripe") == ["whsec_new"]
    query = "SELECT retires_at FROM source_secrets WHERE slot = 0 AND retires_at IS NOT NULL"
    before = await stack.value(query)
    again = await sluice(
        "sources", "retire-secret", "stripe", done["replaces"], "--reason", "leaked"
    )
    assert (again.code, "has ended already" in again.err) == (5, True)
    assert await stack.value(query) == before


async def test_a_shadow_that_was_rotated_in_meanwhile_replaces_nothing(
    sluice: Sluice, stack: Stack, file: Path
) -> None:
    """It would end the secret that works, and put the same one beside itself."""
    shadow = ("sources", "shadow", "stripe", "--reason", "x")
    assert (await sluice(*shadow, "--secret", "env:NEW_SECRET")).code == 0
    await rotate(sluice, "--secret", "env:NEW_SECRET", "--overlap", "1h")
    said = await sluice(*shadow, "--promote", "--overlap", "0", "--yes")
    assert (said.code, "one of its secrets" in said.err) == (5, True), said.err
    assert await opened(stack.endpoints, "stripe") == ["whsec_old", "whsec_new"]
    assert await stack.value("SELECT count(*) FROM source_secrets WHERE retires_at IS NULL") == 3


async def test_a_shadow_is_set_promoted_and_dropped(
    sluice: Sluice, stack: Stack, file: Path
) -> None:
    setting = ("sources", "shadow", "stripe", "--reason", "x", "--secret", "env:NEW_SECRET")
    assert (await sluice(*setting, "--dry-run")).code == 0
    assert await stack.value("SELECT count(*) FROM source_shadows") == 0
    assert (await sluice(*setting)).code == 0
    assert await opened(stack.endpoints, "stripe") == ["whsec_old"]
    shown = (await sluice("sources", "show", "stripe", "--json")).json
    assert shown["shadow"]["bothAccept"] == 0
    promoted = await sluice(
        "sources", "shadow", "stripe", "--promote", "--overlap", "1h", "--reason", "x", "--json"
    )
    assert promoted.code == 0, promoted.err
    assert await opened(stack.endpoints, "stripe") == ["whsec_old", "whsec_new"]
    assert await stack.value("SELECT count(*) FROM source_shadows") == 0
    for flag in ("--promote", "--drop"):
        assert (await sluice("sources", "shadow", "stripe", flag, "--reason", "x")).code == 5
    assert (await sluice("sources", "shadow", "stripe", "--reason", "x")).code == 2
    actions = [one["action"] for one in (await sluice("audit", "list", "--json")).json["items"]]
    assert {"shadow.set", "shadow.promoted"} <= {*actions}


async def test_a_shadow_of_another_scheme_is_the_files_to_bring_in(
    sluice: Sluice, stack: Stack, file: Path, tmp_path: Path
) -> None:
    table = tmp_path / "signature.json"
    table.write_text('{"header": "X-Signature"}')
    setting = ("sources", "shadow", "acme", "--reason", "x", "--secret", "env:NEW_SECRET")
    assert (await sluice(*setting, "--provider", "nobody")).code == 2
    unreadable = await sluice(*setting, "--provider", "hmac")
    assert (unreadable.code, "header" in unreadable.err) == (2, True)
    said = await sluice(*setting, "--provider", "hmac", "--signature", table)
    assert said.code == 0, said.err
    promoted = await sluice("sources", "shadow", "acme", "--promote", "--reason", "x")
    assert (promoted.code, "apply" in promoted.err) == (5, True)
    assert (await sluice("sources", "shadow", "acme", "--drop", "--reason", "x")).code == 0


# Sealing anew -----------------------------------------------------------------------------------


def with_keys(endpoints: Endpoints, home: Path, *keys: str) -> KeyRing:
    from dataclasses import replace

    text = ",".join(keys)
    replace(endpoints, secret_key=text).save(home)
    return KeyRing.parse(text)


async def test_after_rekeying_the_old_key_is_not_needed(
    sluice: Sluice, stack: Stack, file: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything opens with the new key alone; who has both, or the old one loaded, goes on."""
    old, new = stack.endpoints.secret_key, new_key()
    await sluice("sources", "shadow", "stripe", "--secret", "env:NEW_SECRET", "--reason", "x")
    old_ring = KeyRing.parse(old)
    running = Sources(stack.endpoints.database["gateway"], old_ring, timeout_s=5)
    await running.start()
    both = with_keys(stack.endpoints, home, new, old)
    monkeypatch.setattr("workers.rekeying.BATCH", 1)
    listed = (await sluice("secrets", "list", "--old", "--json")).json["items"]
    assert {(one["source"], one["kind"]) for one in listed} == {
        ("stripe", "secret"), ("acme", "secret"), ("polar", "secret"), ("polar", "api_key"),
        ("stripe", "shadow"),
    }  # fmt: skip
    dry = await sluice("secrets", "rekey", "--reason", "x", "--dry-run", "--json")
    assert (dry.json["secrets"], dry.json["apiKeys"], dry.json["shadows"]) == (3, 1, 1)
    assert (await sluice("secrets", "list", "--old", "--json")).json["items"] == listed
    labels = await stack.fetch("SELECT source_id, slot, version FROM source_secrets ORDER BY 1, 2")

    done = await sluice("secrets", "rekey", "--reason", "yearly", "--json")
    assert done.code == 0, done.err
    assert {**done.json, "dryRun": True} == dry.json
    assert done.json["forgotten"] == [old_ring.first]
    assert not (await sluice("secrets", "list", "--old", "--json")).json["items"]
    assert labels == await stack.fetch(
        "SELECT source_id, slot, version FROM source_secrets ORDER BY 1, 2"
    )
    # What runs with the old keys goes on with what it has.
    assert [s.plaintext for s in (await running.find("acme")).source.secrets] == [ACME]
    await running.close()

    alone = with_keys(stack.endpoints, home, new)
    assert await opened(stack.endpoints, "acme", alone) == [ACME]
    assert await opened(stack.endpoints, "stripe", both) == ["whsec_old"]
    with pytest.raises(SealingError):
        await opened(stack.endpoints, "acme", old_ring)
    from shared.sealing import API_KEY_SLOT, Sealed

    [key] = await stack.fetch("SELECT * FROM source_keys")
    sealed = Sealed(key["key_id"], key["nonce"], key["ciphertext"])
    place = {"source": "polar", "slot": API_KEY_SLOT, "version": key["version"]}
    assert alone.open(sealed, **place, address=key["api_base"]) == "polar_oat_1234567890"
    assert (await sluice("sources", "show", "stripe", "--json")).json["shadow"]["keyId"]
    applied = await sluice("apply", file, "--yes")
    assert "nothing changes" in applied.err
    assert (await sluice("audit", "verify")).code == 0


async def test_rekeying_goes_on_where_it_was_stopped(
    sluice: Sluice, stack: Stack, file: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = stack.endpoints.secret_key, new_key()
    keys = with_keys(stack.endpoints, home, new, old)
    from workers.rekeying import rekey

    async with stack.owner.transaction() as conn:
        first = await rekey(conn, keys, limit=2)
    assert (sum(first.sealed.values()), first.is_over, first.forgotten) == (2, False, ())
    left = (await sluice("secrets", "list", "--old", "--json")).json["items"]
    assert len(left) == 2
    # Half way, everybody who has both keys reads everything.
    for name, secret in (("stripe", "whsec_old"), ("acme", ACME), ("polar", "whsec_polar")):
        assert await opened(stack.endpoints, name, keys) == [secret]
    done = await sluice("secrets", "rekey", "--reason", "x", "--json")
    assert done.json["secrets"] + done.json["apiKeys"] == 2
    assert done.json["forgotten"] == [KeyRing.parse(old).first]


async def test_a_key_is_kept_while_a_rotation_waits_that_it_may_have_sealed(
    sluice: Sluice, stack: Stack, file: Path, home: Path
) -> None:
    """It would come back with the order, and nobody could start without it."""
    old, new = stack.endpoints.secret_key, new_key()
    version = await stack.value("SELECT secret_version FROM sources WHERE name = 'stripe'")
    async with Ordering.open(stack) as ordering:
        order: RotateSecret = ordering.rotation(
            "whsec_new", version=version + 1, replaces=(0, version)
        )
        await ordering.order(order)
        with_keys(stack.endpoints, home, new, old)
        waits = await sluice("secrets", "rekey", "--reason", "x", "--json")
        assert (waits.json["waiting"], waits.json["forgotten"]) == (1, [])
        await stack.drain()
    again = await sluice("secrets", "rekey", "--reason", "x", "--json")
    assert (again.json["secrets"], again.json["waiting"]) == (1, 0)
    assert again.json["forgotten"] == [KeyRing.parse(old).first]


async def test_what_does_not_open_stops_it_and_nothing_is_lost(
    sluice: Sluice, stack: Stack, file: Path, home: Path
) -> None:
    with_keys(stack.endpoints, home, new_key())
    before = await stack.fetch("SELECT * FROM source_secrets ORDER BY source_id, slot")
    said = await sluice("secrets", "rekey", "--reason", "x")
    assert said.code == 1
    assert "SLUICE_SECRET_KEY lacks" in said.err
    assert before == await stack.fetch("SELECT * FROM source_secrets ORDER BY source_id, slot")


async def test_rekeying_asks_only_where_there_is_something_to_do(
    sluice: Sluice, stack: Stack, file: Path, home: Path
) -> None:
    ask = functools.partial(
        asyncio.to_thread,
        on_a_terminal,
        ["secrets", "rekey", "--reason", "yearly"],
        wait_for=b"[y/N]",
        answer=b"n\n",
    )
    code, said = await ask()
    assert (code, b"[y/N]" in said) == (0, False), said
    assert b"nothing to do" in said
    assert (await sluice("secrets", "rekey", "--reason", "yearly", "--json")).json["secrets"] == 0
    with_keys(stack.endpoints, home, new_key(), stack.endpoints.secret_key)
    code, said = await ask()
    assert code == 1
    assert b"nothing was done" in said
    assert (await sluice("secrets", "list", "--old", "--json")).json["items"]
