"""The API of jobs: who may ask for what, what is seen of it, and what comes out of it."""

import asyncio
import csv
import gzip
import io
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from shared.artifacts import Artifacts
from shared.domain.events import IMPORT, new_tracking_id
from shared.settings import Endpoints
from tests.gateway.conftest import Gateway, assert_envelope, running_gateway
from tests.gateway.test_api import add_token
from tests.support.acme import add_acme, report
from tests.support.carrying import apply_order
from tests.support.stack import Stack
from workers.jobs import exporting
from workers.jobs.kinds import Begin, Tools
from workers.jobs.run import KINDS, Turns

JOBS = "/api/v1/jobs"
RECORDS = {"kind": "export", "arguments": {"what": "records"}}


class Scene:
    """A gateway, and workers on its database that begin when the test says so."""

    def __init__(self, gateway: Gateway, stack: Stack, home: Path) -> None:
        self.gateway = gateway
        self.stack = stack
        self.artifacts = Artifacts(None, home)
        self.tokens: dict[str, str] = {}
        self.export: Begin = KINDS["export"]

    async def ask(
        self, method: str, path: str, scope: str = "operator", **more: Any
    ) -> httpx.Response:
        if scope not in self.tokens:
            self.tokens[scope] = await add_token(self.gateway, scope)
        headers = {"authorization": f"Bearer {self.tokens[scope]}", **more.pop("headers", {})}
        return await self.gateway.client.request(method, path, headers=headers, **more)

    async def order(self, body: Any, scope: str = "operator", **headers: str) -> dict[str, Any]:
        return assert_envelope(
            await self.ask("POST", JOBS, scope, json=body, headers=headers), 202, None
        )

    async def work(self, *orders: str) -> None:
        """Apply these orders, and do what jobs there are."""
        for one in orders:
            await apply_order(self.stack.crew, UUID(one))
        tools = Tools(self.stack.crew, self.artifacts)
        turns = Turns(tools, asyncio.Event(), {**KINDS, "export": self.export})
        while await turns.turn_of_each():
            pass

    async def done(self, body: Any, scope: str = "operator") -> dict[str, Any]:
        ordered = await self.order(body, scope)
        await self.work(ordered["trackingId"])
        return assert_envelope(await self.ask("GET", ordered["statusUrl"], scope), 200, None)

    async def content(self, job: dict[str, Any], scope: str = "operator") -> bytes:
        (asset,) = (await self.ask("GET", f"{JOBS}/{job['id']}/assets", scope)).json()["data"]
        answer = await self.ask("GET", f"{JOBS}/{job['id']}/assets/{asset['name']}", scope)
        assert answer.status_code == 200
        assert sha256(answer.content).hexdigest() == asset["sha256"] == job["result"]["sha256"]
        assert len(answer.content) == asset["sizeBytes"]
        assert answer.headers["etag"] == f'"{asset["sha256"]}"'
        assert answer.headers["content-type"] == asset["mediaType"]
        assert answer.headers["content-disposition"].startswith("attachment; ")
        return answer.content


@asynccontextmanager
async def scene_of(endpoints: Endpoints, home: Path) -> AsyncIterator[Scene]:
    async with running_gateway(endpoints, home) as gateway, Stack.open(endpoints) as stack:
        await stack.configure()
        await add_acme(stack)
        yield Scene(gateway, stack, home)


@pytest.fixture
async def scene(endpoints: Endpoints, tmp_path: Path) -> AsyncIterator[Scene]:
    """Reports of acme and of beta."""
    async with scene_of(endpoints, tmp_path) as opened:
        bodies = [report(n, id=f"rep_{n}", tenant="acme") for n in range(3)]
        bodies += [report(n, id=f"rep_{n}", tenant="beta") for n in range(3, 5)]
        await opened.stack.apply(*bodies, source="acme")
        yield opened


# Orders -----------------------------------------------------------------------------------------


async def test_what_was_asked_for_is_there_at_once(scene: Scene) -> None:
    """Waiting, before any worker has seen it; then done, with what came of it."""
    ordered = await scene.order(RECORDS)
    assert ordered["jobId"] == ordered["trackingId"]
    assert ordered["statusUrl"] == f"{JOBS}/{ordered['jobId']}"
    early = assert_envelope(await scene.ask("GET", ordered["statusUrl"]), 200, None)
    await scene.work(ordered["trackingId"])
    late = assert_envelope(await scene.ask("GET", ordered["statusUrl"]), 200, None)
    assert early.keys() == late.keys()
    assert (early["state"], late["state"]) == ("waiting", "done")
    assert (early["kind"], early["arguments"]) == ("export", {"what": "records"})
    assert late["progress"] == {"done": 5, "failed": 0, "total": 5, "counts": {"exported": 5}}
    same = ("id", "kind", "source", "tenant", "actor", "arguments")
    assert {name: early[name] for name in same} == {name: late[name] for name in same}
    assert early["actor"] == "token:test"


async def test_the_same_key_gives_the_first_answer_again(scene: Scene) -> None:
    key = {"Idempotency-Key": "once"}
    first = await scene.ask("POST", JOBS, json=RECORDS, headers=key)
    again = await scene.ask("POST", JOBS, json=RECORDS, headers=key)
    assert first.json()["data"] == again.json()["data"]
    assert "x-idempotency-replayed" not in first.headers
    assert again.headers["x-idempotency-replayed"] == "true"
    other = {**RECORDS, "tenant": "acme"}
    assert_envelope(await scene.ask("POST", JOBS, json=other, headers=key), 422, "key_reused")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"kind": "import"}, "/kind"),
        ({"kind": "none"}, "/kind"),
        ({"kind": "export"}, "/arguments"),
        ({"kind": "export", "arguments": {"what": "all"}}, "/arguments/what"),
        ({"kind": "export", "arguments": {"what": "records", "who": 1}}, "/arguments"),
        ({"kind": "export", "arguments": {"what": "records", "since": "soon"}}, "/arguments/since"),
        (
            {"kind": "export", "arguments": {"what": "records", "since": "2026-01-01T00:00:00"}},
            "/arguments/since",
        ),
        (
            {
                "kind": "export",
                "arguments": {
                    "what": "events",
                    "since": "2026-01-02T00:00:00Z",
                    "until": "2026-01-01T00:00:00Z",
                },
            },
            "/arguments/until",
        ),
        ({"kind": "export", "arguments": {"what": "entitlements"}, "source": "acme"}, "/source"),
        ({"kind": "reprocess", "tenant": "acme"}, "/tenant"),
        ({"kind": "reprocess", "arguments": {"select": "some"}}, "/arguments/select"),
        ({"kind": "reprocess", "source": "nowhere"}, "/source"),
        ({**RECORDS, "tenant": "nobody"}, "/tenant"),
        ({**RECORDS, "tenant": "a\0b"}, "/tenant"),
        ({**RECORDS, "more": 1}, ""),
    ],
)
async def test_what_cannot_be_done_is_said_before(scene: Scene, body: Any, pointer: str) -> None:
    answer = await scene.ask("POST", JOBS, json=body)
    assert_envelope(answer, 422, "invalid_body")
    (detail,) = answer.json()["error"]["details"]
    assert detail["pointer"] == pointer
    assert detail["message"]
    assert await scene.gateway.count("inbox") == 5


async def test_jobs_are_listed_in_pages(scene: Scene) -> None:
    for n in range(5):
        await scene.done({**RECORDS, "tenant": "acme" if n % 2 else "beta"})
    await scene.done({"kind": "reprocess", "source": "acme"})
    seen, path = [], f"{JOBS}?kind=export&limit=2"
    while True:
        body = (await scene.ask("GET", path)).json()
        seen += [one["id"] for one in body["data"]]
        if not body["meta"]["hasMore"]:
            break
        path = f"{JOBS}?kind=export&limit=2&cursor={body['meta']['next']}"
    assert len(seen) == 5
    assert seen == sorted(seen, reverse=True)
    states = (await scene.ask("GET", f"{JOBS}?state=done")).json()["data"]
    assert len(states) == 6
    (reprocess,) = (await scene.ask("GET", f"{JOBS}?source=acme")).json()["data"]
    assert (reprocess["kind"], reprocess["source"]) == ("reprocess", "acme")
    assert (await scene.ask("GET", f"{JOBS}?state=failed")).json()["data"] == []
    for query in ("state=lost", "kind=none", "limit=0", "cursor=x", "source=%00"):
        assert_envelope(await scene.ask("GET", f"{JOBS}?{query}"), 400, "malformed_request")


# Tenants ----------------------------------------------------------------------------------------


async def test_a_tenant_asks_for_its_own(scene: Scene) -> None:
    mine = await scene.done(RECORDS, "tenant:acme")
    rows = [json.loads(line) for line in (await scene.content(mine, "tenant:acme")).splitlines()]
    assert {row["tenant"] for row in rows} == {"acme"}
    assert len(rows) == 3
    named = await scene.done({**RECORDS, "tenant": "acme"}, "tenant:acme")
    assert named["tenant"] == "acme"


async def test_another_tenants_jobs_look_like_none(scene: Scene) -> None:
    """Begun or only asked for; whatever is done with them."""
    theirs = await scene.done({**RECORDS, "tenant": "beta"}, "tenant:beta")
    asked = await scene.order(RECORDS, "tenant:beta")
    of_all = await scene.done(RECORDS)
    waiting = await scene.order(RECORDS)
    paths = [
        f"{JOBS}/{job}{rest}"
        for job in (theirs["id"], asked["jobId"], of_all["id"], waiting["jobId"], uuid4(), "x", 1)
        for rest in ("", "/assets", "/assets/records.ndjson", "/cancel")
    ]
    for path in paths:
        method = "POST" if path.endswith("cancel") else "GET"
        answer = await scene.ask(method, path, "tenant:acme")
        assert_envelope(answer, 404, "not_found")
        assert answer.json()["error"]["message"] == "There is no such job."
    assert (await scene.ask("GET", JOBS, "tenant:acme")).json()["data"] == []
    for tenant in ("beta", "nobody", "a\0"):
        answer = await scene.ask("POST", JOBS, "tenant:acme", json={**RECORDS, "tenant": tenant})
        assert_envelope(answer, 404, "not_found")
    assert_envelope(await scene.ask("GET", f"{JOBS}/{asked['jobId']}", "tenant:beta"), 200, None)


async def test_who_may_change_records(scene: Scene) -> None:
    for scope in ("tenant:acme", "service"):
        answer = await scene.ask("POST", JOBS, scope, json={"kind": "reprocess"})
        assert_envelope(answer, 403, "forbidden")
    job = await scene.order({"kind": "reprocess"})
    assert_envelope(
        await scene.ask("POST", f"{job['statusUrl']}/cancel", "service"), 403, "forbidden"
    )
    assert (await scene.done(RECORDS, "service"))["progress"]["done"] == 5


async def test_a_tenant_cannot_ask_whether_a_source_exists(scene: Scene) -> None:
    answers = [
        await scene.ask("POST", JOBS, "tenant:acme", json={**RECORDS, "source": source})
        for source in ("acme", "nowhere")
    ]
    assert [answer.status_code for answer in answers] == [422, 422]
    assert answers[0].json()["error"] == answers[1].json()["error"]


async def test_a_tenants_events_tell_nothing_of_others(scene: Scene) -> None:
    """No number of a row, no transaction, no place in a chain that others are in."""
    body = {"kind": "export", "arguments": {"what": "events"}}
    mine = await scene.done(body, "tenant:acme")
    rows = [json.loads(line) for line in (await scene.content(mine, "tenant:acme")).splitlines()]
    assert {row["tenant"] for row in rows} == {"acme"}
    assert {"record.imported", "event.applied"} <= {row["action"] for row in rows}
    assert not {"id", "xid", "chain", "position"} & set().union(*rows)
    of_all = await scene.done(body)
    rows = [json.loads(line) for line in (await scene.content(of_all)).splitlines()]
    assert {"id", "chain", "position"} <= rows[0].keys()
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    (told,) = [row for row in rows if row["subject"] == "record/rep_1" and row["step"]]
    assert (told["before"], told["after"]) == (None, {"title": "title 1"})


# Ends -------------------------------------------------------------------------------------------


async def test_cancel(scene: Scene) -> None:
    ordered = await scene.order(RECORDS, "tenant:acme")
    await apply_order(scene.stack.crew, UUID(ordered["trackingId"]))
    url = f"{ordered['statusUrl']}/cancel"
    cancelled = assert_envelope(await scene.ask("POST", url, "tenant:acme"), 202, None)
    assert cancelled["jobId"] == ordered["jobId"] != cancelled["trackingId"]
    await scene.work(cancelled["trackingId"])
    job = assert_envelope(await scene.ask("GET", ordered["statusUrl"], "tenant:acme"), 200, None)
    assert (job["state"], job["cancelledBy"]) == ("cancelled", "token")
    assert (await scene.ask("GET", f"{ordered['statusUrl']}/assets")).json()["data"] == []


async def test_what_fails_says_no_more_than_its_code(scene: Scene) -> None:
    job = await scene.done(RECORDS)
    for code, error, shown in (
        ("artifact_gone", "no artifact", {"code": "artifact_gone", "message": "no artifact"}),
        ("KeyError", "secret", {"code": "internal", "message": "An internal error."}),
    ):
        await scene.stack.fetch(
            "UPDATE jobs SET state = 'failed', code = $1, error = $2", code, error
        )
        found = assert_envelope(await scene.ask("GET", f"{JOBS}/{job['id']}"), 200, None)
        assert found["error"] == shown
    await scene.stack.fetch(
        "UPDATE jobs SET state = 'running', code = NULL, error = 'secret', finished_at = NULL"
    )
    found = assert_envelope(await scene.ask("GET", f"{JOBS}/{job['id']}"), 200, None)
    assert found["error"]["code"] == "retrying"
    assert "secret" not in json.dumps(found)


async def test_a_dead_order_is_a_failed_job(scene: Scene) -> None:
    ordered = await scene.order(RECORDS)
    await scene.stack.fetch(
        "INSERT INTO settlements (tracking_id, run, source_id, status, outcome, code, error,"
        " attempts) SELECT $1, 1, id, 'dead', 'dead', 'attempts_exhausted', 'x', 12 FROM sources"
        " WHERE name = 'operator'",
        UUID(ordered["jobId"]),
    )
    job = assert_envelope(await scene.ask("GET", ordered["statusUrl"]), 200, None)
    assert (job["state"], job["error"]["code"]) == ("failed", "attempts_exhausted")
    assert job["finishedAt"]


# Assets -----------------------------------------------------------------------------------------


async def test_an_export_in_parts_is_one_file(scene: Scene) -> None:
    """CSV with one heading, and gzip members in a row; the digest is that of all together."""
    scene.export = partial(exporting.begin, part_bytes=1, page_rows=2)
    body = {"kind": "export", "arguments": {"what": "records", "format": "csv"}}
    plain = await scene.content(await scene.done(body))
    packed = dict(body, arguments={**body["arguments"], "compression": "gzip"})
    job = await scene.done(packed)
    assert job["result"]["asset"] == "records.csv.gz"
    assert gzip.decompress(await scene.content(job)) == plain
    rows = list(csv.DictReader(io.StringIO(plain.decode(), newline="")))
    found = {row["record"]: json.loads(row["normalised"])["title"] for row in rows}
    assert found == {f"rep_{n}": f"title {n}" for n in range(5)}
    parts = await scene.stack.value("SELECT max(cardinality(parts)) FROM job_assets")
    assert parts >= 3


async def test_known_content_is_not_sent_again(scene: Scene) -> None:
    job = await scene.done(RECORDS)
    url = f"{JOBS}/{job['id']}/assets/records.ndjson"
    etag = f'"{job["result"]["sha256"]}"'
    for value, status in ((etag, 304), (f'W/"x", {etag}', 304), ("*", 304), ('"x"', 200)):
        answer = await scene.ask("GET", url, headers={"If-None-Match": value})
        assert (answer.status_code, answer.headers["etag"]) == (status, etag)
    head = await scene.ask("HEAD", url)
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) == job["result"]["sizeBytes"]
    assert_envelope(await scene.ask("GET", f"{JOBS}/{job['id']}/assets/x"), 404, "not_found")


def artifact_of(home: Path, job: dict[str, Any]) -> Path:
    digest = job["result"]["sha256"]
    return home / "artifacts" / "sha256" / digest[:2] / digest


async def test_an_asset_that_is_gone_or_damaged(scene: Scene, tmp_path: Path) -> None:
    """The first has its own message; of the second nothing comes, or not its end."""
    large = await push(scene, b"x" * (9 << 20), "text/plain", is_large=True)
    (file,) = (tmp_path / "artifacts").rglob(sha256(b"x" * (9 << 20)).hexdigest())
    with file.open("r+b") as opened:
        opened.write(b"y")
    with pytest.raises(httpx.RemoteProtocolError):
        await scene.ask("GET", f"{JOBS}/{large}/assets/received")
    job = await scene.done(RECORDS)
    url = f"{JOBS}/{job['id']}/assets/records.ndjson"
    file = artifact_of(tmp_path, job)
    content = file.read_bytes()
    file.write_bytes(content[:-2] + b"x\n")
    assert_envelope(await scene.ask("GET", url), 503, "store_unavailable")
    file.unlink()
    answer = await scene.ask("GET", url)
    assert_envelope(answer, 404, "not_found")
    assert answer.json()["error"]["message"] == "The asset is not kept any more."


async def push(scene: Scene, body: bytes, content_type: str, *, is_large: bool = False) -> UUID:
    """As the ingress stores an import."""
    from datetime import UTC, datetime
    from os import urandom

    job = new_tracking_id(datetime.now(UTC), urandom(10))
    artifact = None
    if is_large:
        artifact = sha256(body).digest()
        await scene.artifacts.put(io.BytesIO(body), artifact, len(body))
    await scene.stack.fetch(
        "INSERT INTO inbox (received_at, tracking_id, source_id, account, livemode, event_id,"
        " event_type, subject, lane, secret, headers, body, trace_context, artifact,"
        " artifact_bytes) SELECT $1, $2, id, '', true, $3, $4, 'x', 0, '0.1', $5, $6, '', $7, $8"
        " FROM sources WHERE name = 'acme'",
        datetime.fromtimestamp((job.int >> 80) / 1000, UTC), job, str(job), IMPORT,
        json.dumps([["content-type", content_type]]).encode(), b"" if is_large else body,
        artifact, len(body) if is_large else None,
    )  # fmt: skip
    return job


@pytest.mark.parametrize("is_large", [False, True])
async def test_what_was_pushed_is_an_asset(scene: Scene, is_large: bool) -> None:
    """From the inbox or from the store, before anybody has begun and as it came."""
    body = b'{"id": "\xff not even text"}' * 100_000 if is_large else b"a,b\r\n1,2\r\n"
    job = await push(scene, body, "text/csv; header=present", is_large=is_large)
    found = assert_envelope(await scene.ask("GET", f"{JOBS}/{job}"), 200, None)
    assert (found["kind"], found["state"], found["source"]) == ("import", "waiting", "acme")
    (asset,) = (await scene.ask("GET", f"{JOBS}/{job}/assets")).json()["data"]
    assert (asset["name"], asset["sha256"]) == ("received", sha256(body).hexdigest())
    answer = await scene.ask("GET", f"{JOBS}/{job}/assets/received")
    assert answer.content == body
    assert answer.headers["content-type"] == "text/csv; header=present"
    for path in ("", "/assets", "/assets/received"):
        answer = await scene.ask("GET", f"{JOBS}/{job}{path}", "tenant:acme")
        assert_envelope(answer, 404, "not_found")
    await scene.stack.fetch("UPDATE sources SET tenant = 'acme' WHERE name = 'acme'")
    assert_envelope(await scene.ask("GET", f"{JOBS}/{job}", "tenant:acme"), 200, None)
    # Its rows may be of others, too: then it is nobody's to read, as it will be once it is begun.
    await scene.stack.fetch(
        "UPDATE sources SET settings = $1 WHERE name = 'acme'",
        {"ingest": {"record": {"id": "id", "tenant": "who"}}},
    )
    for path in ("", "/assets", "/assets/received"):
        answer = await scene.ask("GET", f"{JOBS}/{job}{path}", "tenant:acme")
        assert_envelope(answer, 404, "not_found")


async def test_a_media_type_is_no_header_of_ours(scene: Scene) -> None:
    job = await push(scene, b"x", "text/html\r\nSet-Cookie: a=b")
    answer = await scene.ask("GET", f"{JOBS}/{job}/assets/received")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "set-cookie" not in answer.headers


async def test_a_client_that_goes_away_leaves_nothing_behind(scene: Scene) -> None:
    job = await push(scene, b"x" * (48 << 20), "text/plain", is_large=True)
    await scene.ask("GET", f"{JOBS}/{job}")
    raw = socket.create_connection(("127.0.0.1", scene.gateway.port))
    raw.sendall(
        f"GET {JOBS}/{job}/assets/received HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {scene.tokens['operator']}\r\n\r\n".encode()
    )
    assert await asyncio.to_thread(raw.recv, 1000)
    raw.close()
    await asyncio.sleep(0.3)
    assert not scene.gateway.logged.tracebacks
    answer = await scene.ask("GET", f"{JOBS}/{job}/assets/received")
    assert len(answer.content) == 48 << 20
