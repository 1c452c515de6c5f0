"""Records over the API: listed, shown with all they came from, and read again by order."""

import io
import json
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from shared.settings import Endpoints
from shared.store.recorded import RecordName, decode_name, encode_name
from tests.gateway.conftest import assert_envelope
from tests.gateway.tenancy import SENDER, Deployment, deployed
from tests.support.acme import report
from tests.support.stack import Stack

LIST = "/api/v1/records"


@pytest.fixture
async def deployment(
    stack: Stack, endpoints: Endpoints, tmp_path: Path
) -> AsyncIterator[Deployment]:
    async with deployed(stack, endpoints, tmp_path) as running:
        yield running


def id_of(record: str, source: str = SENDER) -> str:
    return encode_name(RecordName(source, "", True, record))


async def everything(one: Deployment, token: str, query: str = "") -> list[dict[str, Any]]:
    """All pages of the list."""
    found: list[dict[str, Any]] = []
    cursor = ""
    while True:
        answer = await one.ask(token, f"{LIST}?limit=2{query}{cursor}")
        assert answer.status_code == 200, answer.text
        found += answer.json()["data"]
        following = answer.json()["meta"]["next"]
        if following is None:
            return found
        # However many rows there are, and whosever.
        assert len(following) == 123
        cursor = f"&cursor={following}"


def test_ids_name_records_and_nothing_else() -> None:
    for name in (
        RecordName("acme", "", True, "rep_1"),
        RecordName("a", "acct", False, "é/\n" * 50),
        RecordName("s" * 63, "a" * 255, True, "r" * 255),
    ):
        assert decode_name(encode_name(name)) == name
    whole = encode_name(RecordName("acme", "", True, "rep_1"))
    wrong = [whole + "=", whole + "A", whole[:-1], "", "x", "é", "eyJhIjoxfQ", "W10", "bnVsbA"]
    wrong += [encode_name(RecordName("acme", "", True, "a\0"))]
    wrong += [encode_name(RecordName("acme", "", 1, "a")), encode_name(RecordName("a", 1, True, 1))]  # type: ignore[arg-type]
    for text in wrong:
        assert decode_name(text) is None, text


async def test_lists_are_filtered_and_paged(deployment: Deployment) -> None:
    await deployment.stack.apply(report("n", id="rep_n", tenant=None), source=SENDER)
    service = await deployment.token("service")
    every = await everything(deployment, service)
    # The longest known first.
    assert {one["record"] for one in every[:3]} == {f"rep_beta_0_{part}" for part in range(3)}
    assert len(every) == 10
    assert len({one["id"] for one in every}) == 10
    for query, wanted in (
        ("&tenant=acme", 3), ("&tenant=nobody", 0), ("&source=stripe", 0),
        (f"&source={SENDER}", 10),
        ("&waiting=true", 1), ("&record=rep_beta_1_1", 1), ("&tenant=acme&record=rep_beta_1_1", 0),
        (f"&tenant=beta&source={SENDER}", 6),
    ):  # fmt: skip
        assert len(await everything(deployment, service, query)) == wanted, query
    (waiting,) = await everything(deployment, service, "&waiting=true")
    assert (waiting["tenant"], waiting["needs"]) == (None, "needs:tenant")
    refused = await deployment.ask(service, f"{LIST}?waiting=true&tenant=acme")
    assert_envelope(refused, 400, "malformed_request")
    assert_envelope(await deployment.ask(service, f"{LIST}?tenant=%00"), 400, "malformed_request")
    own = await deployment.token("tenant:acme")
    assert {one["tenant"] for one in await everything(deployment, own)} == {"acme"}
    assert await everything(deployment, own, "&waiting=true") == []
    assert_envelope(await deployment.ask(own, f"{LIST}?tenant=beta"), 404, "not_found")


async def test_a_record_is_shown_with_what_it_came_from(deployment: Deployment) -> None:
    for scope in ("service", "tenant:acme"):
        token = await deployment.token(scope)
        answer = await deployment.ask(token, f"{LIST}/{id_of('rep_acme_1_0')}")
        shown = assert_envelope(answer, 200, None)
        assert shown["normalised"] == {"title": "title acme_1_0_2"}
        assert json.loads(shown["raw"])["data"]["id"] == "rep_acme_1_0"
        assert (shown["rawIn"], shown["hasMoreHistory"]) == ("inbox", False)
        assert [one["event"] for one in shown["history"]] == [
            "evt_acme_1_0_2", "evt_acme_1_0_1",
        ]  # fmt: skip
        current = await deployment.stack.value("SELECT max(version) FROM configuration")
        newest = shown["history"][0]
        assert (newest["run"], newest["line"]) == (1, None)
        assert newest["mappedBy"] <= current
    await deployment.stack.value("DELETE FROM inbox")
    gone = assert_envelope(await deployment.ask(token, f"{LIST}/{shown['id']}"), 200, None)
    assert (gone["raw"], gone["rawIn"]) == (None, "gone")


async def test_long_ids_are_found(deployment: Deployment) -> None:
    name = "é" * 127
    await deployment.stack.apply(report("long", id=name, tenant="acme"), source=SENDER)
    token = await deployment.token("service")
    shown = await deployment.ask(token, f"{LIST}/{id_of(name)}")
    assert assert_envelope(shown, 200, None)["record"] == name
    for wrong in ("x" * 5000, id_of("nothing"), id_of("rep_acme_1_0", "stripe"), "%00", "a%2Fb"):
        assert_envelope(await deployment.ask(token, f"{LIST}/{wrong}"), 404, "not_found")


async def test_every_version_is_listed(deployment: Deployment) -> None:
    many = [report(f"v{n:02}", n + 10, id="rep_v", tenant="acme") for n in range(25)]
    await deployment.stack.apply(*many, source=SENDER)
    token = await deployment.token("tenant:acme")
    shown = assert_envelope(await deployment.ask(token, f"{LIST}/{id_of('rep_v')}"), 200, None)
    assert (len(shown["history"]), shown["hasMoreHistory"]) == (10, True)
    seen: list[str] = []
    cursor = ""
    while True:
        answer = await deployment.ask(token, f"{LIST}/{id_of('rep_v')}/versions?limit=10{cursor}")
        seen += [one["event"] for one in answer.json()["data"]]
        if not answer.json()["meta"]["hasMore"]:
            break
        cursor = f"&cursor={answer.json()['meta']['next']}"
    assert seen == [f"evt_v{n:02}" for n in reversed(range(25))]
    strange = await deployment.ask(token, f"{LIST}/{id_of('rep_acme_1_0')}/versions?{cursor[1:]}")
    assert_envelope(strange, 400, "malformed_request")


async def test_a_row_of_an_import_says_its_line(deployment: Deployment) -> None:
    """As an import writes it: what the row held, and where in the file it stood."""
    await deployment.stack.value(
        "UPDATE record_versions SET line = 17, run = 2, raw = '{\"a\": 1}'"
        " WHERE event_id = 'evt_acme_1_0_2'"
    )
    token = await deployment.token("tenant:acme")
    answer = await deployment.ask(token, f"{LIST}/{id_of('rep_acme_1_0')}")
    shown = assert_envelope(answer, 200, None)
    assert (shown["raw"], shown["rawIn"]) == ('{"a": 1}', "version")
    assert (shown["history"][0]["line"], shown["history"][0]["run"]) == (17, 2)


async def test_a_body_in_the_artifact_store_is_read_there(deployment: Deployment) -> None:
    """An inbox row without its body must not look like an empty one."""
    content = b'{"whole": "document"}'
    digest = sha256(content).digest()
    await deployment.gateway.deps.api.artifacts.put(  # type: ignore[union-attr]
        io.BytesIO(content), digest, len(content)
    )
    store = "UPDATE inbox SET body = '', artifact = $1, artifact_bytes = $2 WHERE event_id = $3"
    path = f"{LIST}/{id_of('rep_acme_1_0')}"
    token = await deployment.token("tenant:acme")
    for stored, size, wanted in (
        (digest, len(content), (content.decode(), "artifact")),
        (digest, 2 << 20, (None, "too_large")),
        (sha256(b"gone").digest(), 4, (None, "gone")),
    ):
        await deployment.stack.value(store, stored, size, "evt_acme_1_0_2")
        shown = assert_envelope(await deployment.ask(token, path), 200, None)
        assert (shown["raw"], shown["rawIn"]) == wanted


async def test_what_was_another_tenants_stays_theirs(deployment: Deployment) -> None:
    """A record goes from tenant to tenant: each sees the versions that name it."""
    theirs = report("t1", 1, id="rep_t", tenant="beta", title="secret of beta")
    await deployment.stack.apply(theirs, source=SENDER)
    await deployment.stack.apply(report("t2", 2, id="rep_t", tenant="acme"), source=SENDER)
    path = f"{LIST}/{id_of('rep_t')}"
    acme = await deployment.token("tenant:acme")
    for part in ("", "/versions"):
        answer = await deployment.ask(acme, path + part)
        assert answer.status_code == 200
        assert "beta" not in answer.text
        assert "evt_t1" not in answer.text
    beta = await deployment.ask(await deployment.token("tenant:beta"), path)
    assert_envelope(beta, 404, "not_found")
    service = await deployment.ask(await deployment.token("service"), path)
    assert [one["tenant"] for one in service.json()["data"]["history"]] == ["acme", "beta"]


async def test_a_body_that_reports_of_others_is_kept_back(deployment: Deployment) -> None:
    """One event, two records of two tenants: the body holds what is the other's."""
    await deployment.stack.value(
        "INSERT INTO record_versions SELECT r.id, 'evt_acme_1_0_2', 0, 'beta', '{}', NULL,"
        " v.tracking_id, 1 FROM records r, record_versions v"
        " WHERE r.record_id = 'rep_beta_1_0' AND v.event_id = 'evt_acme_1_0_2'"
    )
    path = f"{LIST}/{id_of('rep_acme_1_0')}"
    acme = await deployment.ask(await deployment.token("tenant:acme"), path)
    assert (acme.json()["data"]["raw"], acme.json()["data"]["rawIn"]) == (None, "gone")
    service = await deployment.ask(await deployment.token("service"), path)
    assert service.json()["data"]["rawIn"] == "inbox"


async def test_a_merged_tenants_records_are_found_by_both_names(deployment: Deployment) -> None:
    await deployment.stack.value(
        "UPDATE tenants SET merged_into = 'beta', merged_at = now() WHERE tenant = 'acme'"
    )
    for scope in ("tenant:acme", "tenant:beta"):
        token = await deployment.token(scope)
        assert len(await everything(deployment, token)) == 9
        for record in ("rep_acme_1_0", "rep_beta_1_0"):
            answer = await deployment.ask(token, f"{LIST}/{id_of(record)}")
            assert assert_envelope(answer, 200, None)["record"] == record


async def test_reprocessing_is_ordered(deployment: Deployment) -> None:
    path = f"{LIST}/{id_of('rep_acme_1_0')}/reprocess"
    service = await deployment.token("service")
    key = {"idempotency-key": "again-1"}
    first = await deployment.ask(service, path, "POST", headers=key)
    ordered = assert_envelope(first, 202, None)
    assert ordered["statusUrl"].endswith(ordered["trackingId"])
    again = await deployment.ask(service, path, "POST", headers=key)
    assert assert_envelope(again, 202, None) == ordered
    assert again.headers["x-idempotency-replayed"] == "true"
    assert "x-idempotency-replayed" not in first.headers
    other = f"{LIST}/{id_of('rep_acme_1_1')}/reprocess"
    assert_envelope(await deployment.ask(service, other, "POST", headers=key), 422, "key_reused")
    (row,) = await deployment.stack.fetch(
        "SELECT i.event_type, i.body FROM inbox i JOIN sources s ON s.id = i.source_id"
        " WHERE s.name = 'operator'"
    )
    order = json.loads(row["body"])
    assert row["event_type"] == "sluice.operator/reprocess-record"
    assert (order["order"]["source"], order["order"]["record_id"]) == (SENDER, "rep_acme_1_0")
    assert order["actor"] == "token:for service"
    tenant = await deployment.token("tenant:acme")
    assert_envelope(await deployment.ask(tenant, path, "POST"), 404, "not_found")
    nothing = f"{LIST}/{id_of('nothing')}/reprocess"
    assert_envelope(await deployment.ask(service, nothing, "POST"), 404, "not_found")
