"""Pushes through real HTTP: who may, what is checked and stored, and what a repetition gets."""

import asyncio
import base64
import gzip
import hmac
import json
import resource
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
import zstandard

from gateway import validating
from gateway.ingest import LARGEST_WHOLE_BYTES, Ingest
from gateway.spooling import FILES_AT_ONCE, MEMORY_BYTES, PIECE_BYTES, SMALL_BYTES, Spools
from gateway.validating import MOST_DETAILS
from shared import db
from shared.artifacts import Artifacts
from shared.providers import providers
from shared.providers.base import Configured
from shared.sealing import KeyRing
from shared.settings import Endpoints
from tests.gateway.conftest import Gateway, add_source, assert_envelope, running_gateway, served

WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER_WHSEC = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
SCHEMA = {
    "type": "object",
    "required": ["id", "at"],
    "properties": {"id": {"type": "string"}, "score": {"type": "number", "minimum": 0}},
    "additionalProperties": {"type": ["string", "number"]},
}
RECORD = {"id": "id", "version": "at"}
UNVERSIONED = {"id": "id"}

#: Source → provider, secret, tables.
SOURCES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "acme": ("standard-webhooks", WHSEC, {"ingest": {"record": RECORD, "schema": SCHEMA}}),
    "keyed": ("bearer", "s3cret", {
        "ingest": {"record": UNVERSIONED, "rows": "data.results", "schema": SCHEMA},
    }),
    "hashed": ("hmac", "s3cret", {
        "signature": {"header": "X-Sig"},
        "ingest": {"record": RECORD, "schema": SCHEMA, "rows": "[].{id: id, at: at}",
                   "formats": ["json", "csv"]},
    }),
    "inside": ("hmac", "s3cret", {
        "signature": {"header": "X-Sig", "timestamp": "sent_at"},
        "ingest": {"record": RECORD, "rows": "rows"},
    }),
    "named": ("bearer", "s3cret", {
        "event": {"id": "header:X-Batch"}, "ingest": {"record": RECORD, "largest": "2MiB"},
    }),
    "events": ("bearer", "s3cret", {"event": {"id": "id"}}),
}  # fmt: skip
JSON = {"content-type": "application/json"}
NOTHING = {"ledger": 0, "inbox": 0, "work": 0, "deliveries": 0}


@dataclass
class Pushes:
    """A gateway with `SOURCES`, and what is done to it."""

    gateway: Gateway
    home: Path
    ingest: Ingest

    async def push(
        self,
        source: str,
        content: Any,
        headers: Mapping[str, str] = JSON,
        *,
        body: bytes | None = None,
        secret: str | None = None,
        shift_s: int = 0,
        **more: str,
    ) -> httpx.Response:
        """`body` is what is signed, where `content` is a stream or something else."""
        signed = self.sign(source, content if body is None else body, secret, shift_s)
        named = {name.replace("_", "-"): value for name, value in more.items()}
        return await self.gateway.client.post(
            f"/api/v1/ingest/{source}", content=content, headers={**headers, **signed, **named}
        )

    def sign(
        self, source: str, body: bytes, secret: str | None = None, shift_s: int = 0
    ) -> dict[str, str]:
        provider, right, tables = SOURCES[source]
        at = datetime.now(UTC) + timedelta(seconds=shift_s)
        if provider == "standard-webhooks":
            return standard(body, secret or right, at)
        bound = providers()[provider].for_source(Configured(tables))
        return dict(bound.sign(body, secret or right, at))

    def artifacts(self) -> list[Path]:
        return [path for path in (self.home / "artifacts").rglob("*") if path.is_file()]

    async def assert_nothing(self) -> None:
        """No row, no artifact, no file, no claim, no traceback."""
        assert await self.gateway.counts() == NOTHING
        assert not self.artifacts()
        assert self.ingest.spools.open_files == 0
        assert not self.ingest.spools.held_bytes
        assert not self.gateway.logged.tracebacks


@pytest.fixture
async def pushes(endpoints: Endpoints, tmp_path: Path) -> AsyncIterator[Pushes]:
    keys = KeyRing.parse(endpoints.secret_key)
    async with db.connect(endpoints.database["owner"], "owner") as owner:
        for name, (provider, secret, tables) in SOURCES.items():
            source = await add_source(owner, keys, name, secret)
            await owner.execute(
                "UPDATE sources SET provider = $2, livemode = NULL, settings = $3 WHERE id = $1",
                source, provider, tables,
            )  # fmt: skip
        await add_source(owner, keys, "stripe", "whsec_test")
    async with running_gateway(endpoints, tmp_path) as running:
        assert running.deps.ingest is not None
        yield Pushes(running, tmp_path, running.deps.ingest)


def standard(body: bytes, secret: str, at: datetime) -> dict[str, str]:
    """Of any bytes; the official SDK signs text."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    message, moment = f"msg_{sha256(body).hexdigest()[:24]}", int(at.timestamp())
    digest = hmac.digest(key, f"{message}.{moment}.".encode() + body, "sha256")
    return {
        "webhook-id": message,
        "webhook-timestamp": str(moment),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def rows_of(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"id": f"r{start + n}", "at": "2026-11-02T12:00:00Z"} for n in range(count)]


def document(count: int = 2, start: int = 0) -> bytes:
    return json.dumps(rows_of(count, start)).encode()


def large(size_bytes: int = SMALL_BYTES + 1) -> bytes:
    return document(1 + size_bytes // 40)


def accepted(answer: httpx.Response) -> str:
    data = assert_envelope(answer, 202, None)
    assert data["statusUrl"] == f"/api/v1/ingest/{data['trackingId']}"
    return str(data["trackingId"])


def is_replayed(answer: httpx.Response) -> bool:
    return answer.headers.get("x-idempotency-replayed") == "true"


def details(answer: httpx.Response) -> list[tuple[str, str]]:
    assert_envelope(answer, 422, "invalid_body")
    return [(one["pointer"], one["message"]) for one in answer.json()["error"]["details"]]


def memory_bytes() -> int:
    """The most that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


# Who may ---------------------------------------------------------------------------------------


async def test_only_the_verified_push(pushes: Pushes) -> None:
    for body in (document(), large()):
        for source, wrong in [("acme", OTHER_WHSEC), ("keyed", "other"), ("hashed", "other"),
                              ("inside", "other")]:  # fmt: skip
            key = {"idempotency_key": "1"}
            forged = await pushes.push(source, body, secret=wrong, **key)
            assert_envelope(forged, 401, "wrong_signature")
            bare = await pushes.gateway.client.post(
                f"/api/v1/ingest/{source}", content=body, headers=JSON
            )
            assert_envelope(bare, 401, "missing_signature")
        for shift_s, code in [(-301, "timestamp_too_old"), (302, "timestamp_in_future")]:
            assert_envelope(await pushes.push("acme", body, shift_s=shift_s), 401, code)
        other = await pushes.push("acme", body + b" ", body=body)
        assert_envelope(other, 401, "wrong_signature")
    for source in ("stripe", "events", "nobody", "operator", "sluice-handlers"):
        answer = await pushes.gateway.client.post(
            f"/api/v1/ingest/{source}",
            content=document(),
            headers={**JSON, "authorization": "Bearer s3cret"},
        )
        assert_envelope(answer, 404, "unknown_source")
    await pushes.assert_nothing()


async def test_webhooks_of_a_source_with_pushes_go_on(pushes: Pushes) -> None:
    """Its mapping says what they mean; and no webhook can call itself a push."""
    body = document()
    tracking_id = accepted(await pushes.push("acme", body))
    sent = await pushes.gateway.client.post(
        "/api/v1/webhooks/acme", content=body, headers={**JSON, **pushes.sign("acme", body)}
    )
    data = assert_envelope(sent, 200, None)
    assert data["status"] == "new"
    assert data["trackingId"] != tracking_id
    types = await pushes.gateway.owner.fetch("SELECT event_type FROM inbox ORDER BY received_at")
    assert [row["event_type"] for row in types] == ["sluice.import", "event"]


async def test_other_methods_are_refused_in_the_envelope(pushes: Pushes) -> None:
    async with (
        served(replace(pushes.gateway.deps, api=None)) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        for method in ("GET", "PUT", "DELETE", "PATCH"):
            answer = await client.request(method, "/api/v1/ingest/acme")
            assert_envelope(answer, 405, "method_not_allowed")
            assert answer.headers["allow"] == "POST"
        assert (await client.head("/api/v1/ingest/acme")).status_code == 405
        body = document()
        posted = await client.post(
            "/api/v1/ingest/acme", content=body, headers={**JSON, **pushes.sign("acme", body)}
        )
        accepted(posted)


# What is stored --------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["acme", "keyed", "hashed", "inside"])
async def test_which_secret_has_proven_it_is_kept(pushes: Pushes, source: str) -> None:
    sealed = pushes.gateway.keys.seal(OTHER_WHSEC, source=source, slot=1, version=1)
    owner = pushes.gateway.owner
    await owner.execute(
        "INSERT INTO source_secrets (source_id, slot, version, key_id, nonce, ciphertext)"
        " SELECT id, 1, 1, $2, $3, $4 FROM sources WHERE name = $1",
        source, sealed.key_id, sealed.nonce, sealed.ciphertext,
    )  # fmt: skip
    await owner.execute(
        "INSERT INTO configuration (version, actor, mode)"
        " SELECT max(version) + 1, 'test', 'live' FROM configuration"
    )
    first, second = rows_of(1), rows_of(1, 1)
    sent_at = int(datetime.now(UTC).timestamp())
    shapes: dict[str, Callable[[Any], Any]] = {
        "keyed": lambda rows: {"data": {"results": rows}},
        "inside": lambda rows: {"sent_at": sent_at, "rows": rows},
    }
    shape = shapes.get(source, lambda rows: rows)
    other, right = (json.dumps(shape(rows)).encode() for rows in (first, second))
    async with asyncio.timeout(10):
        named: Any = {"secret": OTHER_WHSEC, "idempotency_key": "1"}
        while (await pushes.push(source, other, **named)).status_code != 202:
            await asyncio.sleep(0.1)
    accepted(await pushes.push(source, right, idempotency_key="2"))
    kept = await owner.fetch("SELECT secret FROM inbox ORDER BY received_at, tracking_id")
    assert [row["secret"] for row in kept] == ["1.1", "0.1"]


async def test_a_small_document_is_stored_exactly_as_it_came(pushes: Pushes) -> None:
    body = b" " + document()
    packed = gzip.compress(body)
    tracking_id = accepted(await pushes.push("acme", packed, content_encoding="gzip"))
    [row] = await pushes.gateway.owner.fetch("SELECT * FROM inbox")
    assert (str(row["tracking_id"]), row["body"]) == (tracking_id, packed)
    assert (row["event_type"], row["subject"]) == ("sluice.import", row["event_id"])
    assert row["event_id"].startswith("import/msg_")
    assert (row["artifact"], row["artifact_bytes"], row["unreadable"]) == (None, None, None)
    assert (row["secret"], row["account"], row["livemode"]) == ("0.1", "", True)
    headers = dict(json.loads(row["headers"]))
    assert (headers["content-type"], headers["content-encoding"]) == ("application/json", "gzip")
    assert await pushes.gateway.counts() == {**NOTHING, "ledger": 1, "inbox": 1, "work": 1}
    assert not pushes.artifacts()


async def test_of_what_is_sent_along_only_a_digest_is_stored(pushes: Pushes) -> None:
    accepted(await pushes.push("named", document(), x_batch="b1"))
    [row] = await pushes.gateway.owner.fetch("SELECT headers FROM inbox")
    assert b"s3cret" not in row["headers"]


@pytest.mark.parametrize("size_bytes", [SMALL_BYTES, SMALL_BYTES + 1, 5 << 20])
async def test_what_is_too_large_for_a_row_is_an_artifact(pushes: Pushes, size_bytes: int) -> None:
    body = b"id,at\n".ljust(size_bytes, b"x")
    accepted(await pushes.push("acme", body, {"content-type": "text/csv"}))
    [row] = await pushes.gateway.owner.fetch("SELECT * FROM inbox JOIN ledger USING (tracking_id)")
    digest = sha256(body).digest()
    assert row["body_sha"] == digest
    if size_bytes == SMALL_BYTES:
        assert (row["body"], row["artifact"]) == (body, None)
        assert not pushes.artifacts()
    else:
        assert (row["body"], row["artifact"], row["artifact_bytes"]) == (b"", digest, len(body))
        [path] = pushes.artifacts()
        assert path.read_bytes() == body
    assert pushes.ingest.spools.open_files == 0


@pytest.mark.parametrize("length", [None, SMALL_BYTES - 1, SMALL_BYTES + (3 << 20)])
async def test_chunks_without_a_length(pushes: Pushes, length: int | None) -> None:
    body = document() if length is None else b"x" * length

    async def stream() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 100_001):
            yield body[at : at + 100_001]

    answer = await pushes.push("acme", stream(), {"content-type": "text/csv"}, body=body)
    accepted(answer)
    stored = await pushes.gateway.owner.fetchrow("SELECT body_sha FROM ledger")
    assert stored["body_sha"] == sha256(body).digest()


async def test_a_body_that_is_verified_whole_has_a_limit_of_its_own(pushes: Pushes) -> None:
    now = datetime.now(UTC).isoformat()
    rows = large(2 << 20).decode()
    body = f'{{"sent_at": {int(datetime.now(UTC).timestamp())}, "rows": {rows}}}'.encode()
    accepted(await pushes.push("inside", body))
    stale = f'{{"sent_at": 1700000000, "rows": {rows}}}'.encode()
    assert_envelope(await pushes.push("inside", stale), 401, "timestamp_too_old")
    assert_envelope(await pushes.push("inside", b"x" * 100), 401, "malformed_signature")
    over = await pushes.push("inside", now.encode().ljust(LARGEST_WHOLE_BYTES + 1))
    assert_envelope(over, 413, "body_too_large")
    assert "its signature" in over.json()["error"]["message"]


# What is checked -------------------------------------------------------------------------------


async def test_every_violation_is_named_by_where_it_stands(pushes: Pushes) -> None:
    rows: list[Any] = [{"id": 1, "at": "x"}, {"id": "a", "at": "b"}, {"at": "c", "score": -1}, 7]
    answer = await pushes.push("acme", json.dumps(rows).encode())
    found = details(answer)
    assert [pointer for pointer, _ in found] == ["/0/id", "/2", "/2/score", "/3"]
    assert all(message for _, message in found)
    single = details(await pushes.push("acme", b'{"id": "a"}'))
    assert [pointer for pointer, _ in single] == [""]
    assert [one for one, _ in details(await pushes.push("acme", b"7"))] == [""]
    await pushes.assert_nothing()


async def test_places_of_rows_that_an_expression_finds(pushes: Pushes) -> None:
    nested = {"data": {"results": [{"id": "a", "at": "b"}, {"id": "a", "a/b~c": []}]}}
    key = {"idempotency_key": "1"}
    found = details(await pushes.push("keyed", json.dumps(nested).encode(), **key))
    assert {pointer for pointer, _ in found} == {
        "/data/results/1", "/data/results/1/a~1b~0c",
    }  # fmt: skip
    nowhere = details(await pushes.push("keyed", b'{"data": {}}', **key))
    assert nowhere == [("", "ingest.rows: found no array")]
    made = details(await pushes.push("hashed", b'[{"id": "a", "at": 1}, {"id": 2, "at": 1}]'))
    [(pointer, message)] = made
    assert pointer == ""
    assert message.startswith("row 2, /id: ")
    await pushes.assert_nothing()


async def test_violations_end_somewhere_and_say_so(pushes: Pushes) -> None:
    answer = await pushes.push("acme", json.dumps([{"at": "x"}] * 5000).encode())
    found = details(answer)
    assert len(found) == MOST_DETAILS
    assert found[-1][0] == f"/{MOST_DETAILS - 1}"
    assert f"first {MOST_DETAILS} violations" in answer.json()["error"]["message"]


async def test_one_long_key_above_everything_is_not_repeated_in_memory(pushes: Pushes) -> None:
    """Of 150,000 places under a key of half a MiB, only those that are told have a pointer."""
    body = b'{"' + b"k" * (512 << 10) + b'": [' + b",".join([b"[]"] * 150_000) + b"]}"
    before_bytes = memory_bytes()
    [(pointer, message)] = details(await pushes.push("acme", body))
    assert (pointer, message) == ("", "does not fit the schema, and is too large to say where")
    assert memory_bytes() - before_bytes < 200 << 20
    key = "k" * (64 << 10)
    answer = await pushes.push("acme", json.dumps([{"id": "a", "at": 1, key: []}] * 8).encode())
    assert details(answer) == [
        ("", f'row {n}: [] is not of types "number", "string"') for n in range(1, 9)
    ]


async def test_a_row_that_is_nested_deeply_is_a_violation(pushes: Pushes) -> None:
    deep = b'{"id": "a", "at": ' + b"[" * 260 + b"]" * 260 + b"}"
    found = details(await pushes.push("acme", b"[%b]" % deep))
    assert found == [("/0", "is nested too deeply to be checked")]
    assert not pushes.gateway.logged.tracebacks


async def test_what_takes_too_long_is_left_to_the_import(
    pushes: Pushes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validating, "_WITHIN_S", 0.0)
    accepted(await pushes.push("acme", json.dumps([{"at": "x"}] * 100).encode()))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "empty"),
        (b" ", "not JSON"),
        (b"[{", "not JSON"),
        (b'[{"id": "a"} x]', "byte 13"),
        (b"\xff[]", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"id": NaN}', "byte 7"),
    ],
)
async def test_what_is_no_json_is_told_where(pushes: Pushes, body: bytes, said: str) -> None:
    answer = await pushes.push("acme", body)
    assert_envelope(answer, 400, "malformed_request")
    assert said in answer.json()["error"]["message"]
    await pushes.assert_nothing()


async def test_what_is_not_json_or_large_is_stored_unread(pushes: Pushes) -> None:
    broken = b"{" * (SMALL_BYTES + 1)
    for body, content_type in [
        (broken, "application/json"),
        (b"not json\n", "application/x-ndjson"),
        (b"{", "application/jsonl; charset=UTF-8"),
        (b"\xff", "text/csv"),
        (b"x", 'multipart/form-data; boundary="a b"'),
        (gzip.compress(document(60_000)), "application/vnd.acme+json"),
    ]:
        is_packed = body.startswith(b"\x1f")
        encoding = {"content_encoding": "gzip"} if is_packed else {}
        accepted(await pushes.push("acme", body, {"content-type": content_type}, **encoding))


async def test_media_types_that_the_source_does_not_take(pushes: Pushes) -> None:
    for content_type in ("", "text/plain", "application/xml", "application/x-www-form-urlencoded"):
        answer = await pushes.push("acme", b"[]", {"content-type": content_type})
        assert_envelope(answer, 415, "unsupported_media_type")
        said = answer.json()["error"]["message"]
        assert "application/json, application/x-ndjson, text/csv, multipart/form-data" in said
    ndjson = await pushes.push("hashed", b"", {"content-type": "application/x-ndjson"})
    assert_envelope(ndjson, 415, "unsupported_media_type")
    assert "takes application/json, text/csv." in ndjson.json()["error"]["message"]
    latin = await pushes.push("acme", b"a", {"content-type": "text/csv; charset=iso-8859-1"})
    assert_envelope(latin, 415, "unsupported_media_type")
    bare = await pushes.push("acme", b"a", {"content-type": "multipart/form-data"})
    assert_envelope(bare, 400, "malformed_request")
    for encoding in ("br", "deflate", "gzip, gzip"):
        answer = await pushes.push("acme", b"[]", content_encoding=encoding)
        assert_envelope(answer, 415, "unsupported_media_type")
        assert "gzip, zstd" in answer.json()["error"]["message"]
    await pushes.assert_nothing()


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_what_is_encoded_is_checked_too(pushes: Pushes, encoding: str) -> None:
    def packed(body: bytes) -> bytes:
        return gzip.compress(body) if encoding == "gzip" else zstandard.compress(body)

    accepted(await pushes.push("acme", packed(document()), content_encoding=encoding))
    wrong = await pushes.push("acme", packed(b'[{"id": "a"}]'), content_encoding=encoding)
    assert [pointer for pointer, _ in details(wrong)] == ["/0"]
    for damaged in (packed(document())[:-1], b"garbage", packed(document()) + b"x"):
        answer = await pushes.push("acme", damaged, content_encoding=encoding)
        assert_envelope(answer, 400, "malformed_request")
        assert "Content-Encoding" in answer.json()["error"]["message"]
    for bomb in (packed(bytes(26 << 20)), packed(bytes(300 << 20))):
        assert len(bomb) <= SMALL_BYTES
        answer = await pushes.push("acme", bomb, content_encoding=encoding)
        assert_envelope(answer, 413, "body_too_large")
    assert await pushes.gateway.count("inbox") == 1


# Repetitions -----------------------------------------------------------------------------------


async def test_the_same_again_and_another_under_its_id(pushes: Pushes) -> None:
    for source, more in [
        ("acme", {}),
        ("keyed", {"idempotency_key": "k1"}),
        ("hashed", {"x_idempotency_key": '"k1"'}),
        ("hashed", {}),
        ("named", {"x_batch": "b1"}),
    ]:
        for body in (document(), large()):
            content = body
            if source == "keyed":
                content = json.dumps({"data": {"results": json.loads(body)}}).encode()
            named = {
                name: f"{value}-{len(body)}".replace('"-', "-") + '"' * value.startswith('"')
                for name, value in more.items()
            }
            first = await pushes.push(source, content, **named)
            tracking_id = accepted(first)
            assert not is_replayed(first)
            again = await pushes.push(source, content, **named)
            assert (accepted(again), is_replayed(again)) == (tracking_id, True)
            if named:
                other = await pushes.push(source, content + b" ", **named)
                assert_envelope(other, 422, "key_reused")
    assert not pushes.gateway.logged.tracebacks


async def test_a_messages_id_wins_over_a_key(pushes: Pushes) -> None:
    body = document()
    first = accepted(await pushes.push("acme", body, idempotency_key="one"))
    again = await pushes.push("acme", body, idempotency_key="two")
    assert (accepted(again), is_replayed(again)) == (first, True)
    batch = accepted(await pushes.push("named", body, x_batch="b", idempotency_key="k"))
    keyed = accepted(await pushes.push("named", body, idempotency_key="k"))
    assert keyed != batch


async def test_rows_without_a_version_need_a_key(pushes: Pushes) -> None:
    body = b'{"data": {"results": []}}'
    answer = await pushes.push("keyed", body)
    assert_envelope(answer, 400, "missing_idempotency_key")
    assert "Idempotency-Key" in answer.json()["error"]["message"]
    for key in ("", "two words", '"', "ü" * 3, "x" * 201):
        encoded = {**JSON, "idempotency-key": key.encode("latin-1")}
        odd = await pushes.push("keyed", body, encoded)  # type: ignore[arg-type]
        assert_envelope(odd, 400, "malformed_request")
    differ = await pushes.push("keyed", body, idempotency_key="a", x_idempotency_key="b")
    assert_envelope(differ, 400, "malformed_request")
    await pushes.assert_nothing()
    quoted = await pushes.push("keyed", body, idempotency_key='"a"', x_idempotency_key="a")
    again = await pushes.push("keyed", body, idempotency_key="a")
    assert accepted(quoted) == accepted(again)


async def test_a_key_in_flight_belongs_to_whoever_has_proven_himself(pushes: Pushes) -> None:
    body = b'{"data": {"results": []}}'
    may_end = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield body[:5]
        await may_end.wait()
        yield body[5:]

    first = asyncio.create_task(pushes.push("keyed", slow(), body=body, idempotency_key="k"))
    await until(lambda: bool(pushes.ingest.claims._held))
    second = await pushes.push("keyed", body, idempotency_key="k")
    assert_envelope(second, 409, "key_in_flight")
    accepted(await pushes.push("keyed", body, idempotency_key="another"))
    may_end.set()
    tracking_id = accepted(await first)
    third = await pushes.push("keyed", body, idempotency_key="k")
    assert (accepted(third), is_replayed(third)) == (tracking_id, True)
    # A signed one is proven by its last byte: a forgery holds nobody's key until then.
    may_end.clear()
    forged = asyncio.create_task(
        pushes.push("hashed", slow(), body=body, secret="other", idempotency_key="k")
    )
    await asyncio.sleep(0.2)
    accepted(await pushes.push("hashed", document(), idempotency_key="k"))
    may_end.set()
    assert_envelope(await forged, 401, "wrong_signature")


async def test_many_at_once_are_one(pushes: Pushes) -> None:
    body = large()
    answers = await asyncio.gather(*(pushes.push("hashed", body) for _ in range(6)))
    assert len({accepted(answer) for answer in answers}) == 1
    assert sum(not is_replayed(answer) for answer in answers) == 1
    assert await pushes.gateway.count("inbox") == 1
    assert len(pushes.artifacts()) == 1


# Limits ----------------------------------------------------------------------------------------


async def until(is_so: Any) -> None:
    async with asyncio.timeout(5):
        while not is_so():
            await asyncio.sleep(0.01)


async def test_sizes_are_declared_and_counted(pushes: Pushes) -> None:
    limit = 2 << 20
    csv = {"content-type": "text/csv"}
    accepted(await pushes.push("named", b"x" * limit, csv, x_batch="1"))
    over = await pushes.push("named", b"x" * (limit + 1), csv, x_batch="2")
    assert_envelope(over, 413, "body_too_large")

    async def stream() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 65_536

    assert_envelope(
        await pushes.push("named", stream(), csv, body=b"", x_batch="3"), 413, "body_too_large"
    )
    huge = await raw(pushes, "named", b"x", b"Content-Length: " + b"9" * 17)
    assert huge.startswith(b"HTTP/1.1 413 ")
    assert await pushes.gateway.count("inbox") == 1


async def raw(
    pushes: Pushes, source: str, body: bytes, *lines: bytes, shut: bool = False, wait_s: float = 5
) -> bytes:
    """What is answered to a request that no client would send."""
    reader, writer = await asyncio.open_connection("127.0.0.1", pushes.gateway.port)
    signed = [f"{name}: {value}".encode() for name, value in pushes.sign(source, body).items()]
    head = [f"POST /api/v1/ingest/{source} HTTP/1.1".encode(), b"Host: x",
            b"Content-Type: text/csv", *signed, *lines, b"", b""]  # fmt: skip
    writer.write(b"\r\n".join(head) + body)
    if shut:
        writer.write_eof()
    try:
        async with asyncio.timeout(wait_s):
            return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        return error.partial
    finally:
        writer.close()


async def test_a_body_that_does_not_come_is_not_waited_for(pushes: Pushes) -> None:
    """By its progress: what is large may take long, and what stands still may not."""
    pushes.ingest.spools._within_s = 0.5
    answer = await raw(pushes, "named", b"half", b"Content-Length: 8", b"X-Batch: 1")
    assert answer.startswith(b"HTTP/1.1 408 ")
    answer = await raw(pushes, "named", b"4\r\nhalf\r\n", b"Transfer-Encoding: chunked")
    assert answer.startswith(b"HTTP/1.1 408 ")
    await pushes.assert_nothing()

    async def steady() -> AsyncIterator[bytes]:
        for _ in range(8):
            yield b"x" * (256 << 10)
            await asyncio.sleep(0.2)  # more than within_s in all

    csv = {"content-type": "text/csv"}
    accepted(await pushes.push("named", steady(), csv, body=b"x" * (2 << 20), x_batch="1"))


async def test_whoever_hangs_up_leaves_nothing(pushes: Pushes) -> None:
    for body in (b"half", b"x" * (3 << 20)):
        said = b"Content-Length: %d" % (len(body) + 1)
        for source in ("acme", "hashed"):
            answer = await raw(pushes, source, body, said, shut=True, wait_s=5)
            assert not answer.startswith(b"HTTP/1.1 2")
    await until(lambda: pushes.ingest.spools.open_files == 0)
    await pushes.assert_nothing()


async def test_a_length_that_lies(pushes: Pushes) -> None:
    """The server holds a body to its length: what is behind it is another request, and no HTTP."""
    body = b"id,at\n"
    answer = await raw(pushes, "hashed", body, b"Content-Length: 3", wait_s=5)
    assert answer.startswith(b"HTTP/1.1 400 ")
    both = await raw(pushes, "hashed", body, b"Content-Length: 6", b"Transfer-Encoding: chunked")
    assert both.startswith(b"HTTP/1.1 400 ")
    await pushes.assert_nothing()


async def test_expect_100_continue(pushes: Pushes) -> None:
    """Who asks first is told to send, unless the headers say enough."""
    body = document()
    reader, writer = await asyncio.open_connection("127.0.0.1", pushes.gateway.port)

    async def ask(signed: Mapping[str, str]) -> bytes:
        lines = [f"{name}: {value}" for name, value in (JSON | dict(signed)).items()]
        head = ["POST /api/v1/ingest/named HTTP/1.1", "Host: x", "Expect: 100-continue",
                f"Content-Length: {len(body)}", *lines, "", ""]  # fmt: skip
        writer.write("\r\n".join(head).encode())
        async with asyncio.timeout(5):
            return await reader.readuntil(b"\r\n\r\n")

    assert (await ask(pushes.sign("named", body))).startswith(b"HTTP/1.1 100 ")
    writer.write(body)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 202 ")
    writer.close()
    reader, writer = await asyncio.open_connection("127.0.0.1", pushes.gateway.port)
    assert (await ask(pushes.sign("named", body, "other"))).startswith(b"HTTP/1.1 401 ")
    writer.close()


async def test_files_at_once_are_bounded_and_leave_room_for_others(pushes: Pushes) -> None:
    may_end = asyncio.Event()
    body, at = large(2 * SMALL_BYTES), SMALL_BYTES + PIECE_BYTES

    async def slow() -> AsyncIterator[bytes]:
        yield body[:at]
        await may_end.wait()
        yield body[at:]

    csv = {"content-type": "text/csv"}
    share = FILES_AT_ONCE // 2
    waiting = [
        asyncio.create_task(pushes.push("hashed", slow(), csv, body=body, idempotency_key=str(n)))
        for n in range(share)
    ]
    await until(lambda: pushes.ingest.spools.open_files == share)
    refused = await pushes.push("hashed", body, csv)
    assert_envelope(refused, 503, "overloaded")
    accepted(await pushes.push("hashed", document()))
    accepted(await pushes.push("acme", body, csv))
    may_end.set()
    for answer in await asyncio.gather(*waiting):
        accepted(answer)
    assert pushes.ingest.spools.open_files == 0
    assert not pushes.ingest.spools.held_bytes


async def test_lengths_alone_take_no_files(pushes: Pushes) -> None:
    """Whoever says that much will come, and is nobody, keeps out nobody."""
    said = b"Content-Length: %d" % (3 << 20)
    opened = [
        asyncio.create_task(raw(pushes, source, b"x", said, wait_s=30))
        for source in ("hashed", "acme")
        for _ in range(FILES_AT_ONCE)
    ]
    await until(lambda: pushes.ingest.spools.held_bytes == 2 * FILES_AT_ONCE)
    assert pushes.ingest.spools.open_files == 0
    csv = {"content-type": "text/csv"}
    accepted(await pushes.push("hashed", large(), csv))
    for one in opened:
        one.cancel()
    await asyncio.gather(*opened, return_exceptions=True)
    await until(lambda: not pushes.ingest.spools.held_bytes)


async def test_a_source_has_its_share_of_the_memory(pushes: Pushes) -> None:
    may_end = asyncio.Event()
    body = b"x" * SMALL_BYTES

    async def slow() -> AsyncIterator[bytes]:
        yield body
        await may_end.wait()

    csv = {"content-type": "text/csv"}
    share = MEMORY_BYTES // 2 // SMALL_BYTES
    waiting = [
        asyncio.create_task(pushes.push("hashed", slow(), csv, body=body, idempotency_key=str(n)))
        for n in range(share)
    ]
    await until(lambda: pushes.ingest.spools.held_bytes == share * SMALL_BYTES)
    assert_envelope(await pushes.push("hashed", document()), 503, "overloaded")
    accepted(await pushes.push("acme", document()))
    may_end.set()
    for answer in await asyncio.gather(*waiting):
        accepted(answer)
    assert not pushes.ingest.spools.held_bytes


async def test_a_bad_signature_after_twenty_mebibytes_leaves_nothing(pushes: Pushes) -> None:
    body = b"x" * (20 << 20)
    answer = await pushes.push("acme", body, {"content-type": "text/csv"}, secret=OTHER_WHSEC)
    assert_envelope(answer, 401, "wrong_signature")
    await pushes.assert_nothing()


# What fails ------------------------------------------------------------------------------------


async def test_an_artifact_store_that_cannot_be_written(pushes: Pushes) -> None:
    (pushes.home / "artifacts").write_text("a file where a directory should be")
    csv = {"content-type": "text/csv"}
    answer = await pushes.push("hashed", large(), csv)
    assert_envelope(answer, 503, "store_unavailable")
    assert await pushes.gateway.counts() == NOTHING
    accepted(await pushes.push("hashed", document()))
    (pushes.home / "artifacts").unlink()
    accepted(await pushes.push("hashed", large(), csv))


async def test_a_disk_that_is_full(pushes: Pushes, monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full says so at every write."""

    def full(**_: object) -> Any:
        return Path("/dev/full").open("w+b", 0)

    monkeypatch.setattr("gateway.spooling.tempfile.TemporaryFile", full)
    answer = await pushes.push("hashed", large())
    assert_envelope(answer, 503, "store_unavailable")
    await pushes.assert_nothing()


@asynccontextmanager
async def without_postgres(pushes: Pushes) -> AsyncIterator[None]:
    """New connections are refused, and those that there are end."""
    name = pushes.gateway.endpoints.database["owner"].rsplit("/", 1)[1].partition("?")[0]
    base = pushes.gateway.endpoints.database["owner"].replace(f"/{name}", "/postgres", 1)
    async with db.connect(base, "owner") as conn:
        await conn.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = $1 AND application_name LIKE 'sluice-gateway%'",
            name,
        )
        try:
            yield
        finally:
            await conn.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


async def test_postgres_is_away(pushes: Pushes) -> None:
    body = large()
    accepted(await pushes.push("acme", document()))
    async with without_postgres(pushes):
        assert_envelope(await pushes.push("acme", body), 503, "store_unavailable")
        assert_envelope(await pushes.push("acme", document()), 503, "store_unavailable")
    async with asyncio.timeout(10):
        while (answer := await pushes.push("acme", body)).status_code == 503:
            await asyncio.sleep(0.1)
    accepted(answer)


async def test_a_source_that_cannot_be_read_says_come_again(pushes: Pushes) -> None:
    owner = pushes.gateway.owner
    await owner.execute(
        "UPDATE sources SET settings = $1 WHERE name = 'named'",
        {"ingest": {"record": RECORD, "newer": True}},
    )
    await add_source(owner, pushes.gateway.keys, "another", "secret")
    async with asyncio.timeout(5):
        while (await pushes.push("named", document())).status_code == 202:
            await asyncio.sleep(0.1)
    assert_envelope(await pushes.push("named", document()), 503, "source_unreadable")


async def test_an_artifact_is_there_before_the_row(pushes: Pushes) -> None:
    """Whoever dies in between has acknowledged nothing, and a retry works."""
    body = large()

    class Died(Exception):
        pass

    class Store:
        async def submit(self, delivery: Any) -> Any:
            [path] = pushes.artifacts()
            assert path.read_bytes() == body
            raise Died

    broken = replace(pushes.ingest, ingress=replace(pushes.ingest.ingress, store=Store()))
    async with (
        served(replace(pushes.gateway.deps, ingest=broken)) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        answer = await client.post(
            "/api/v1/ingest/acme", content=body, headers={**JSON, **pushes.sign("acme", body)}
        )
    assert_envelope(answer, 500, "internal")
    assert await pushes.gateway.counts() == NOTHING
    accepted(await pushes.push("acme", body))
    assert len(pushes.artifacts()) == 1


def test_spools_and_artifacts_are_given_to_the_ingest(pushes: Pushes) -> None:
    assert isinstance(pushes.ingest.spools, Spools)
    assert isinstance(pushes.ingest.artifacts, Artifacts)
