"""What was refused, by the command line; and whether a saved request would be accepted."""

import asyncio
import json
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from shared.providers import providers
from shared.sealing import KeyRing
from shared.store import refusals
from tests.cli.conftest import Sluice
from tests.cli.test_screen import at_a_terminal
from tests.support.ordering import put_secret
from tests.support.stack import Stack

SECRET = "whsec_test"
BODY = b'{"id": "evt_1", "type": "x"}'


@pytest.fixture
async def keys(stack: Stack) -> KeyRing:
    ring = KeyRing.parse(stack.endpoints.secret_key)
    await put_secret(stack, ring, SECRET)
    return ring


def signed(secret: str = SECRET, at: datetime | None = None, body: bytes = BODY) -> list[list[str]]:
    headers = providers()["stripe"].sign(body, secret, at or datetime.now(UTC))
    return [["host", "x"], *([name, value] for name, value in headers)]


async def keep(stack: Stack, **said: Any) -> str:
    number = uuid.uuid4()
    one = {
        "id": number, "source_id": stack.sources["stripe"], "refused_at": datetime.now(UTC),
        "kind": "webhook", "address": "192.0.2.7", "code": "wrong_signature",
        "cause": "signature_mismatch", "hint": "no secret fits", "signed_at": None,
        "headers": json.dumps(signed()).encode(), "body": BODY, "body_bytes": len(BODY),
        "body_sha": b"\1" * 32, "trace_id": "a" * 32,
    }  # fmt: skip
    async with stack.gateway.connection() as conn:
        assert await refusals.keep_refusal(conn, refusals.Kept(**{**one, **said}))
    return str(number)


async def test_requests_are_listed_and_filtered(sluice: Sluice, stack: Stack) -> None:
    assert (await sluice("requests", "list", "--json")).json == {"items": [], "next": None}
    long_ago = datetime.now(UTC) - timedelta(hours=5)
    old = await keep(stack, refused_at=long_ago, cause="clock_off")
    new = await keep(stack)

    async def ids(*more: str) -> list[str]:
        said = await sluice("requests", "list", "--json", *more)
        assert said.code == 0, said.err
        return [one["id"] for one in said.json["items"]]

    assert await ids() == [new, old]
    assert await ids("--cause", "clock_off") == [old]
    assert await ids("--since", "1h") == [new]
    assert await ids("--source", "stripe", "--since", "1d") == [new, old]
    assert await ids("--source", "nobody") == []
    page = (await sluice("requests", "list", "--json", "--limit", "1")).json
    assert await ids("--cursor", page["next"]) == [old]
    wrongs = (("--cause", "bad_luck"), ("--since", "soon"), ("--source", ""), ("--cursor", "x"))
    for wrong in wrongs:
        assert (await sluice("requests", "list", *wrong)).code == 2, wrong
    table = await sluice("requests", "list")
    assert new in table.out
    assert "signature_mismatch" in table.out


async def test_one_request_is_shown_with_what_to_do(
    home: Path, sluice: Sluice, stack: Stack
) -> None:
    number = await keep(stack, cause="body_changed", hint="a newline\x1b[31m went")
    shown = (await sluice("requests", "show", number, "--json")).json
    assert shown["headers"] == signed()
    # The signature, one long word, is what somebody looks for: at 80 columns too.
    code, said = await asyncio.to_thread(at_a_terminal, "requests", "show", number, NO_COLOR="1")
    name, value = shown["headers"][1]
    assert code == 0
    assert f"{name}: {value[:40]}" in said
    assert "proxy" in shown["whatToDo"]
    assert shown["bodySha256"] == "01" * 32
    people = await sluice("requests", "show", number)
    assert "stripe-signature" in people.out
    assert "\x1b[31m" not in people.out
    raw = await sluice("requests", "raw", number)
    assert raw.out == BODY.decode()
    unread = await keep(stack, body=None, body_bytes=None, body_sha=None)
    assert (await sluice("requests", "raw", unread)).code == 1
    for command in ("show", "raw"):
        assert (await sluice("requests", command, "x")).code == 2
        assert (await sluice("requests", command, str(uuid.uuid4()))).code == 3


HEADERS = {
    "lines": lambda pairs: "\n".join(f"{name}: {value}" for name, value in pairs),
    "curl": lambda pairs: "> POST / HTTP/1.1\n" + "\n".join(f"> {n}: {v}" for n, v in pairs),
    "pairs": json.dumps,
    "object": lambda pairs: json.dumps(dict(pairs)),
    "lists": lambda pairs: json.dumps({name: [value] for name, value in pairs}),
    "named": lambda pairs: json.dumps([{"name": n.title(), "value": v} for n, v in pairs]),
    "inside": lambda pairs: json.dumps({"headers": pairs, "more": 1}),
}


@pytest.fixture
def saved(tmp_path: Path) -> Any:
    def save(pairs: list[list[str]], body: bytes = BODY, form: str = "lines") -> list[str]:
        (tmp_path / "headers").write_text(HEADERS[form](pairs))
        (tmp_path / "body").write_bytes(body)
        return ["--body", str(tmp_path / "body"), "--headers", str(tmp_path / "headers")]

    return save


@pytest.mark.parametrize("form", HEADERS)
async def test_a_saved_request_is_accepted_in_whatever_form(
    sluice: Sluice, stack: Stack, keys: KeyRing, saved: Any, form: str
) -> None:
    said = await sluice("sources", "verify", "stripe", *saved(signed(), form=form), "--json")
    assert said.code == 0, said.out
    assert (said.json["accepted"], said.json["secret"], said.json["cause"]) == (True, "0.1", None)
    assert await stack.value("SELECT count(*) FROM ledger") == 0


async def test_why_a_saved_request_is_refused_is_said(
    sluice: Sluice, stack: Stack, keys: KeyRing, saved: Any
) -> None:
    async def why(*arguments: str) -> Any:
        said = await sluice("sources", "verify", "stripe", *arguments, "--json")
        assert said.code == 1, said.err
        assert SECRET not in said.out
        return said.json

    old = datetime.now(UTC) - timedelta(hours=2)
    late = await why(*saved(signed(at=old)))
    assert (late["cause"], late["accepted"], late["secret"]) == ("clock_off", False, None)
    assert late["whatToDo"]
    in_time = await sluice(
        "sources", "verify", "stripe", *saved(signed(at=old)), "--at", old.isoformat()
    )
    assert in_time.code == 0, in_time.out
    assert (await why(*saved(signed("whsec_x"))))["cause"] == "signature_mismatch"
    assert (await why(*saved(signed(), BODY + b"\n")))["cause"] == "body_changed"
    assert (await why(*saved([["host", "x"]])))["cause"] == "missing_header"
    # Rotated out, and of another source.
    sealed = keys.seal("whsec_gone", source="stripe", slot=1, version=2)
    async with stack.owner.connection() as conn:
        await conn.execute(
            "INSERT INTO source_secrets (source_id, slot, version, key_id, nonce, ciphertext,"
            " retires_at) VALUES ($1, 1, 2, $2, $3, $4, now() - interval '1 minute')",
            stack.sources["stripe"], sealed.key_id, sealed.nonce, sealed.ciphertext,
        )  # fmt: skip
    gone = await why(*saved(signed("whsec_gone")))
    assert (gone["cause"], "1.2" in gone["hint"]) == ("wrong_secret", True)


async def test_a_kept_request_is_judged_as_of_when_it_came(
    sluice: Sluice, stack: Stack, keys: KeyRing
) -> None:
    then = datetime.now(UTC) - timedelta(hours=3)
    number = await keep(stack, refused_at=then, headers=json.dumps(signed(at=then)).encode())
    said = await sluice("sources", "verify", "stripe", "--request", number)
    assert said.code == 0, said.out  # its secret was applied since
    cut = await keep(stack, body_bytes=10**6)
    said = await sluice("sources", "verify", "stripe", "--request", cut, "--json")
    assert (said.code, said.json["cause"]) == (1, "signature_mismatch")
    assert "not all of the body" in said.json["hint"]
    await stack.add_source("other", "stripe", livemode=True)
    assert (await sluice("sources", "verify", "other", "--request", number)).code == 2


async def test_a_token_that_was_kept_as_a_digest_is_judged_by_it(
    sluice: Sluice, stack: Stack, keys: KeyRing
) -> None:
    await stack.add_source("acme", "bearer")
    await put_secret(stack, keys, "right", "acme")
    for token, code in (("right", 0), ("wrong", 1)):
        digest = keys.digest(f"Bearer {token}")
        number = await keep(
            stack, source_id=stack.sources["acme"],
            headers=json.dumps([["authorization", digest]]).encode(),
        )  # fmt: skip
        said = await sluice("sources", "verify", "acme", "--request", number)
        assert said.code == code, (token, said.out, said.err)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("stripe",), 2),
        (("stripe", "--body", "x"), 2),
        (("stripe", "--request", "x"), 2),
        (("stripe", "--request", str(uuid.uuid4())), 3),
        (("stripe", "--body", "gone", "--headers", "gone"), 2),
        (("nobody", "--request", str(uuid.uuid4())), 3),
    ],
)
async def test_what_is_not_understood_is_said(
    sluice: Sluice, stack: Stack, arguments: tuple[str, ...], code: int
) -> None:
    assert (await sluice("sources", "verify", *arguments)).code == code


@pytest.mark.parametrize("text", ["no colon", "[1]", '{"a": 1}', "[[", '{"a": {}}'])
async def test_headers_that_are_none_are_said(
    sluice: Sluice, stack: Stack, keys: KeyRing, saved: Any, tmp_path: Path, text: str
) -> None:
    arguments = saved(signed())
    (tmp_path / "headers").write_text(text)
    said = await sluice("sources", "verify", "stripe", *arguments)
    assert said.code == 2, (said.out, said.err)
    assert "headers" in said.err


def test_every_cause_has_its_advice() -> None:
    from shared.providers.base import CAUSES
    from workers.cli.causes import ADVICE

    assert ADVICE.keys() == set(CAUSES)
