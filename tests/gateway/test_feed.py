"""The feed: who is shown what, by which filters, and cursors that can always be gone on from."""

import json
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from shared import db
from shared.domain.audit import Draft
from shared.store import audit, feed
from shared.store.feed import Position, Wanted
from tests.gateway.conftest import Gateway, assert_envelope
from tests.gateway.test_api import add_token

PATH = "/api/v1/events"
GRANTED = b'{"value": 5, "validUntil": null}'


def told(action: str = "entitlement.granted", tenant: str = "acme", **more: Any) -> Draft:
    """A record that an event has caused."""
    return Draft(
        **{
            "chain": f"tenant:{tenant}" if tenant else "lane:1",
            "cause": "event",
            "cause_id": str(uuid4()),
            "run": 1,
            "tenant": tenant,
            "step": 1,
            "action": action,
            "actor": "provider:stripe",
            "source": "stripe",
        }
        | more
    )


async def write(gateway: Gateway, *drafts: Draft) -> None:
    async with gateway.owner.transaction():
        now, xid = await audit.moment(gateway.owner)
        await audit.append(gateway.owner, drafts, now=now, xid=xid)


async def ask(gateway: Gateway, token: str, **query: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {token}"}
    if "begin" in query:
        query["from"] = query.pop("begin")
    return await gateway.client.get(PATH, params=query, headers=headers)


async def page(gateway: Gateway, token: str, **query: Any) -> tuple[list[Any], dict[str, Any]]:
    answer = await ask(gateway, token, **query)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["error"] is None
    assert answer.headers["cache-control"] == "no-store"
    assert body["meta"].keys() == {"traceId", "limit", "next", "hasMore"}
    return body["data"], body["meta"]


async def types(gateway: Gateway, token: str, **query: Any) -> list[str]:
    return [item["type"] for item in (await page(gateway, token, **query))[0]]


# Cursors ----------------------------------------------------------------------------------------


async def test_an_empty_feed_has_a_cursor_to_go_on_from(gateway: Gateway) -> None:
    token = await add_token(gateway, "service")
    items, meta = await page(gateway, token)
    assert (items, meta["hasMore"]) == ([], False)
    await write(gateway, told("a.b"), told("a.c"))
    items, meta = await page(gateway, token, cursor=meta["next"], limit=1)
    assert ([item["type"] for item in items], meta["hasMore"]) == (["a.b"], True)
    items, meta = await page(gateway, token, cursor=meta["next"], limit=1)
    assert ([item["type"] for item in items], meta["hasMore"]) == (["a.c"], False)
    for _ in range(2):
        items, meta = await page(gateway, token, cursor=meta["next"])
        assert (items, meta["hasMore"]) == ([], False)
    await write(gateway, told("a.d"))
    assert await types(gateway, token, cursor=meta["next"]) == ["a.d"]


async def test_from_the_latest_shows_what_comes_after(gateway: Gateway) -> None:
    token = await add_token(gateway, "service")
    await write(gateway, told("a.b"))
    items, meta = await page(gateway, token, begin="latest")
    assert items == []
    await write(gateway, told("a.c"))
    assert await types(gateway, token, cursor=meta["next"]) == ["a.c"]
    assert await types(gateway, token, begin="beginning") == ["a.b", "a.c"]


async def test_what_commits_late_is_neither_skipped_nor_overtaken(gateway: Gateway) -> None:
    """Its number is the smaller one: nobody is shown the other one before."""
    token = await add_token(gateway, "service")
    async with db.connect(gateway.endpoints.database["owner"], "owner") as late:
        turn = late.transaction()
        await turn.start()
        now, xid = await audit.moment(late)
        await write(gateway, told("early.b", chain="lane:2"))
        items, meta = await page(gateway, token)
        assert items == []
        await audit.append(late, [told("late.a")], now=now, xid=xid)
        await turn.commit()
    assert await types(gateway, token, cursor=meta["next"]) == ["late.a", "early.b"]


async def test_a_position_is_always_a_records(gateway: Gateway) -> None:
    """The number of a transaction that left nothing behind may be given out again after a crash."""
    await write(gateway, told("a.b"))
    last = await gateway.owner.fetchrow("SELECT xid::text AS xid, id FROM audit")
    for _ in range(3):
        turn = gateway.owner.transaction()
        await turn.start()
        await gateway.owner.fetchval("SELECT pg_current_xact_id()")
        await turn.rollback()
    written = Position(int(last["xid"]), last["id"])
    for wanted in (Wanted(), Wanted(types=("nothing",)), Wanted(tenant="acme")):
        found = await feed.read_stretch(gateway.owner, wanted, feed.BEGINNING, 10, look_at=100)
        assert found.end == written
        again = await feed.read_stretch(gateway.owner, wanted, written, 10, look_at=100)
        assert (list(again.records), again.end) == ([], written)
    assert await feed.newest(gateway.owner) == written
    assert (await feed.look(gateway.owner, feed.BEGINNING)).end == written


@pytest.mark.parametrize("wanted", [Wanted(types=("rare",)), Wanted("acme", types=("rare",))])
async def test_a_rare_filter_moves_on_all_the_same(gateway: Gateway, wanted: Wanted) -> None:
    """A bounded look at a time, and never at the same record again."""
    await write(gateway, *(told("a.b") for _ in range(25)), told("rare"), told("a.b"))
    after, looks, found = feed.BEGINNING, 0, []
    while True:
        stretch = await feed.read_stretch(gateway.owner, wanted, after, 5, look_at=10)
        looks += 1
        found += stretch.records
        assert stretch.end > after
        after = stretch.end
        if not stretch.is_behind:
            break
    assert (looks, len(found)) == (3, 1)
    assert after == await feed.newest(gateway.owner)


async def test_cursors_say_nothing(gateway: Gateway) -> None:
    """Not even by their length how far the numbers have come; and they are this list's alone."""
    token = await add_token(gateway, "tenant:acme")
    _, before = await page(gateway, token)
    await write(gateway, *(told("a.b") for _ in range(30)))
    _, after = await page(gateway, token)
    assert before["next"] != after["next"]
    assert len(before["next"]) == len(after["next"])
    assert_envelope(await ask(gateway, token, cursor="x" * 40), 400, "malformed_request")
    members = gateway.keys.hide(b"WzEsMl0", "cursor/members")
    assert_envelope(await ask(gateway, token, cursor=members), 400, "malformed_request")


# What is shown ----------------------------------------------------------------------------------


async def test_an_item_says_what_happened(gateway: Gateway) -> None:
    granted = told(subject="subscription/sub_1", feature="seats", catalog_version=3, after=GRANTED)
    await write(gateway, granted)
    token = await add_token(gateway, "service")
    ((item,), _) = await page(gateway, token)
    assert len(item.pop("id")) == 32
    assert item.pop("at").endswith("Z")
    assert item == {
        "type": "entitlement.granted", "tenant": "acme", "source": "stripe",
        "actor": "provider:stripe",
        "cause": {"kind": "event", "id": granted.cause_id, "run": 1, "step": 1},
        "subject": "subscription/sub_1", "feature": "seats", "catalogVersion": 3, "position": 1,
        "before": None, "after": {"value": 5, "validUntil": None}, "isErased": False,
        "reason": None,
    }  # fmt: skip


async def test_an_id_is_the_records_for_all_and_for_ever(gateway: Gateway) -> None:
    first = told()
    await write(gateway, first, told(cause_id=first.cause_id, step=2))
    own, service = await add_token(gateway, "tenant:acme"), await add_token(gateway, "service")
    ids = [[item["id"] for item in (await page(gateway, one))[0]] for one in (own, service)]
    assert ids[0] == ids[1]
    assert len({*ids[0]}) == 2
    assert ids[0] == [item["id"] for item in (await page(gateway, own))[0]]


async def test_a_tenant_is_shown_nothing_of_anybody_else(gateway: Gateway) -> None:
    """Neither in what it gets, nor by what it may ask."""
    secret = "secret-other"
    action, number = str(uuid4()), 1234567
    await write(
        gateway,
        told(tenant=secret),
        told("configuration.applied", ""),
        # Linked away from another one, by an operator with a note.
        told("customer.linked", chain="operator:x", cause="operator", cause_id=action, step=0,
             actor="operator:ana", subject="customer/cus_1", reason=b"secret-note",
             before=json.dumps({"tenant": secret}).encode(), after=b'{"tenant": "acme"}'),
        # An end names the number of a row, a derivation may name who was derived.
        told("entitlement.revoked", cause="end", cause_id=f"{number}:pro:seats:until:2026",
             actor="system:clock", subject=f"manual/{number}", feature="seats", before=GRANTED),
        told(cause="catalog", cause_id=f"7:{secret}", actor="system:sweep", feature="seats",
             after=GRANTED),
        told("entitlement.granted", step=9, feature="sso", after=b"true"),
    )  # fmt: skip
    token = await add_token(gateway, "tenant:acme")
    answer = await ask(gateway, token)
    items = answer.json()["data"]
    assert [(item["type"], item["actor"], item["cause"]["kind"]) for item in items] == [
        ("customer.linked", "operator", "operator"),
        ("entitlement.revoked", "system:clock", "end"),
        ("entitlement.granted", "system:sweep", "catalog"),
        ("entitlement.granted", "provider:stripe", "event"),
    ]
    for hidden in (secret, action, str(number), "ana", "note", "lane", '"step":9'):
        assert hidden not in answer.text.replace(answer.json()["meta"]["next"], "")
    assert [item["before"] for item in items] == [
        None,
        {"value": 5, "validUntil": None},
        None,
        None,
    ]
    assert items[2]["after"] == {"value": 5, "validUntil": None}
    # Who it was is not to be found by asking either.
    assert_envelope(await ask(gateway, token, actor="operator:ana"), 400, "malformed_request")
    assert_envelope(await ask(gateway, token, actor="operator:a*"), 400, "malformed_request")
    assert await types(gateway, token, actor="operator") == ["customer.linked"]
    # Others see all of it.
    shown = (await ask(gateway, await add_token(gateway, "operator"))).text
    for hidden in (secret, action, str(number), "operator:ana", "secret-note"):
        assert hidden in shown


async def test_what_a_tenant_sees_of_changes_of_many_records(gateway: Gateway) -> None:
    """An import's manifest has numbers of rows and lines, by which others' could be counted."""
    change = [4711, "imported", 812, None, 1, None, "00"]
    manifest = json.dumps({"columns": [], "changes": [change]}).encode()
    again = [{"record": "rep_1", "action": "record.imported", "before": None, "after": {"a": 1}}]
    await write(
        gateway,
        told("records.imported", chain="import:x", subject="import/x", after=manifest),
        told("records.taken_back", chain="import:x", subject="import/x", step=2, after=manifest),
        told("records.reprocessed", chain="job:y", step=3, after=json.dumps(again).encode()),
    )
    items, _ = await page(gateway, await add_token(gateway, "tenant:acme"))
    assert [(item["type"], item["after"]) for item in items] == [
        ("records.imported", None),
        ("records.taken_back", None),
        ("records.reprocessed", again),
    ]
    seen, _ = await page(gateway, await add_token(gateway, "service"))
    assert seen[0]["after"]["changes"] == [change]


async def test_another_tenant_looks_like_none(gateway: Gateway) -> None:
    await write(gateway, told(tenant="other"))
    token = await add_token(gateway, "tenant:acme")
    theirs, absent = (
        await ask(gateway, token, tenant="other"),
        await ask(gateway, token, tenant="x"),
    )
    assert_envelope(theirs, 404, "not_found")
    assert theirs.json()["error"] == absent.json()["error"]
    assert await types(gateway, token, tenant="acme") == []
    assert await types(gateway, await add_token(gateway, "service"), tenant="nobody") == []


async def test_a_merged_tenant_reads_under_all_its_names(gateway: Gateway) -> None:
    """In one order, whoever of them is asked for; and others nothing of it."""
    await gateway.owner.execute(
        "INSERT INTO tenants (tenant, merged_into, merged_at) VALUES ('new', NULL, NULL),"
        " ('old', 'new', now()), ('older', 'new', now()), ('other', NULL, NULL)"
    )
    for index, tenant in enumerate(["old", "new", "other", "older", "new", "old"]):
        await write(gateway, told(f"a.n{index}", tenant))
    expected = ["a.n0", "a.n1", "a.n3", "a.n4", "a.n5"]
    for name in ("old", "new", "older"):
        token = await add_token(gateway, f"tenant:{name}")
        assert await types(gateway, token) == expected
        found: list[str] = []
        meta: dict[str, Any] = {"next": None, "hasMore": True}
        while meta["hasMore"]:
            more = {} if meta["next"] is None else {"cursor": meta["next"]}
            items, meta = await page(gateway, token, limit=2, **more)
            found += [item["type"] for item in items]
        assert found == expected
    assert await types(gateway, await add_token(gateway, "tenant:other")) == ["a.n2"]
    assert await types(gateway, await add_token(gateway, "service"), tenant="older") == expected


async def test_what_is_erased_says_so(gateway: Gateway) -> None:
    await write(gateway, told(after=GRANTED), told("record.imported", after=b"not json"))
    await gateway.owner.execute(
        "UPDATE audit_content SET salt = NULL, after = NULL"
        " WHERE audit_id = (SELECT min(audit_id) FROM audit_content)"
    )
    items, _ = await page(gateway, await add_token(gateway, "tenant:acme"))
    assert [(item["after"], item["isErased"]) for item in items] == [
        (None, True), ("not json", False),
    ]  # fmt: skip


async def test_a_large_content_is_shown_by_its_size(gateway: Gateway) -> None:
    """An import's manifest has a thousand changes, and a page five hundred records."""
    small, large = b'"' + b"x" * 8190 + b'"', b'"' + b"x" * 8191 + b'"'
    await write(gateway, told(after=small), told(before=large, after=large))
    for scope in ("service", "tenant:acme"):
        first, second = (await page(gateway, await add_token(gateway, scope)))[0]
        assert first["after"] == "x" * 8190
        assert (second["before"], second["after"]) == ({"bytes": 8193}, {"bytes": 8193})


# Filters ----------------------------------------------------------------------------------------


FILTERS: list[tuple[dict[str, str], list[int]]] = [
    ({"type": "event.applied"}, [2]),
    ({"type": "entitlement.*"}, [0, 1]),
    ({"type": "event.applied,entitlement.g*"}, [0, 2]),
    ({"type": "a_b"}, [4]),
    ({"type": "a_*"}, [4]),
    ({"type": "%"}, []),
    ({"type": "null"}, []),
    ({"tenant": "other"}, [1]),
    ({"tenant": "null"}, []),
    ({"source": "polar"}, [2]),
    ({"source": "pola*"}, []),
    ({"actor": "operator:*"}, [2, 3]),
    ({"actor": "operator:ana"}, [2]),
    ({"actor": "operator"}, []),
    ({"tenant": "acme", "type": "e*", "actor": "operator:*"}, [2, 3]),
    ({"since": "2020-01-01T00:00:00Z", "until": "2120-01-01T00:00:00+02:00"}, [*range(6)]),
    ({"since": "2120-01-01T00:00:00Z"}, []),
    ({"until": "2020-01-01T00:00:00Z"}, []),
]


async def test_filters(gateway: Gateway) -> None:
    await write(
        gateway,
        told("entitlement.granted"),
        told("entitlement.revoked", "other", actor="system:clock", source=""),
        told("event.applied", actor="operator:ana", source="polar"),
        told("entitlementXgranted", actor="operator:bob"),
        told("a_b", actor="operator_x"),
        told("aXb"),
    )
    token = await add_token(gateway, "service")
    everything = [item["id"] for item in (await page(gateway, token))[0]]
    for query, expected in FILTERS:
        items, meta = await page(gateway, token, **query)
        assert [everything.index(item["id"]) for item in items] == expected, query
        assert meta["hasMore"] is False
        again, _ = await page(gateway, token, **query, cursor=meta["next"])
        assert again == []


async def test_since_is_included_and_until_is_not(gateway: Gateway) -> None:
    token = await add_token(gateway, "service")
    await write(gateway, told())
    at = await gateway.owner.fetchval("SELECT at FROM audit")
    after = at + timedelta(microseconds=1)
    assert len(await types(gateway, token, since=at.isoformat())) == 1
    assert len(await types(gateway, token, since=after.isoformat())) == 0
    assert len(await types(gateway, token, until=at.isoformat())) == 0
    assert len(await types(gateway, token, until=after.isoformat())) == 1


NO_FILTERS: list[dict[str, str]] = [
    {"type": ""}, {"type": "a,"}, {"type": ","}, {"type": "*"}, {"type": "a,*"},
    {"type": ",".join("x" * 21)}, {"type": "x" * 300}, {"type": "a\0"},
    {"tenant": ""}, {"tenant": "a\0"}, {"source": ""}, {"source": "\0"},
    {"actor": ""}, {"actor": "*"}, {"actor": "\0*"},
    {"since": ""}, {"since": "null"}, {"since": "yesterday"}, {"since": "1700000000"},
    {"since": "2026-11-01T00:00:00"}, {"until": "2026-11-01"},
    {"until": "0001-01-01T00:00:00+14:00"},
    {"wait": ""}, {"wait": "61s"}, {"wait": "-1s"}, {"wait": "1m"}, {"wait": "null"},
    {"from": ""}, {"from": "now"}, {"cursor": ""}, {"limit": "0"}, {"limit": "501"},
    {"kind": "entitlement.granted"}, {"types": "a"},
]  # fmt: skip


async def test_what_is_no_filter_is_refused(gateway: Gateway) -> None:
    """Above all what would otherwise mean everything."""
    service = await add_token(gateway, "service")
    tenants = await add_token(gateway, "tenant:acme")
    for query in NO_FILTERS:
        for token in (service, tenants):
            answer = await ask(gateway, token, **query)
            assert_envelope(answer, 400, "malformed_request")
            assert next(iter(query)) in answer.json()["error"]["message"]


async def test_a_cursor_and_a_beginning_contradict_each_other(gateway: Gateway) -> None:
    token = await add_token(gateway, "service")
    _, meta = await page(gateway, token)
    answer = await ask(gateway, token, cursor=meta["next"], begin="latest")
    assert_envelope(answer, 400, "malformed_request")


async def test_without_a_token_nothing_is_said(gateway: Gateway) -> None:
    assert_envelope(await gateway.client.get(PATH), 401, "missing_token")
    assert_envelope(await ask(gateway, "slu_wrong"), 401, "invalid_token")
