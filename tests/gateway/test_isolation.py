"""
A tenant's token on every route: what is another tenant's looks like what does not exist.

The routes are those of `OPERATIONS`, so that one that comes later is tried too; whoever adds a path
parameter, a query or a body says in the tables below what another tenant's looks like there.
"""

import io
import json
import os
import re
import statistics
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import msgspec
import pytest

from gateway.api.operations import Operation
from gateway.api.routes import OPERATIONS
from shared.domain.commands import CancelJob
from shared.domain.events import new_tracking_id, received_at_of
from shared.settings import Endpoints
from shared.store import tokens
from shared.store.recorded import RecordName, encode_name
from tests.gateway.tenancy import SENDER, Deployment, deployed, headers_of, told
from tests.support.acme import report
from tests.support.stack import Stack
from tests.support.stripe_events import event, subscription

ABSENT_ID = "0193c2f0-0000-7000-8000-000000000000"


def _record_of(tenant: str) -> str:
    return encode_name(RecordName(SENDER, "", True, f"rep_{tenant}_1_0"))


#: Path parameter, or with the step of the path before it, → what a tenant has of it. What nobody
#: has is what `nobody` has of it; of what only the database can tell, `Known` has one each.
PARAMETERS: dict[str, Callable[["Known", str], str]] = {
    "tenant": lambda _, tenant: tenant,
    "feature": lambda _, __: "exports",
    "record": lambda _, tenant: _record_of(tenant),
    "source": lambda _, tenant: SENDER if tenant != "nobody" else "nobodys",
    "ingest/trackingId": lambda known, tenant: known.imports.get(tenant, ABSENT_ID),
    "orders/trackingId": lambda known, tenant: known.orders.get(tenant, ABSENT_ID),
    "job": lambda known, tenant: known.jobs.get(tenant, ABSENT_ID),
    "name": lambda _, __: "rejected.ndjson",
}
#: Query parameter → how it names another tenant, or what is that tenant's.
QUERIES: dict[str, Callable[["Known", str], str | None]] = {
    "tenant": lambda _, tenant: tenant,
    "record": lambda _, tenant: f"rep_{tenant}_1_0",
    # What names nobody's: it may narrow what the token sees, and no more.
    **dict.fromkeys(
        (
            "at",
            "limit",
            "cursor",
            "source",
            "waiting",
            "kind",
            "state",
            "type",
            "actor",
            "since",
            "until",
            "from",
            "prefix",
            "wait",
        ),
        lambda _, __: None,
    ),
}
#: Operation with a body → what it says about a tenant.
BODIES: dict[str, Callable[["Known", str], Any]] = {
    "check_entitlements": lambda _, tenant: {"tenant": tenant, "features": ["seats"]},
    "start_job": lambda _, tenant: {
        "kind": "export",
        "tenant": tenant,
        "arguments": {"what": "records", "format": "ndjson"},
    },
    # Of a source, which is nobody's.
    **dict.fromkeys(("pause_source", "resume_source", "rotate_secret"), lambda _, __: {}),
}

_PARAMETER = re.compile(r"(?P<step>[^/]+)/\{(?P<name>\w+)(?::path)?\}")
#: What a job made.
_ASSET = b"{}\n"


@dataclass(frozen=True)
class Known:
    """What each tenant has that only the database can tell: ids by tenant."""

    events: dict[str, str]
    imports: dict[str, str]
    orders: dict[str, str]
    jobs: dict[str, str]

    def of(self, tenant: str) -> list[str]:
        """All that is the tenant's."""
        return [ids[tenant] for ids in (self.events, self.imports, self.orders, self.jobs)]


@pytest.fixture
async def deployment(
    stack: Stack, endpoints: Endpoints, tmp_path: Path
) -> AsyncIterator[Deployment]:
    async with deployed(stack, endpoints, tmp_path) as running:
        yield running


async def known(one: Deployment) -> Known:
    """An event, an import, an order and a job with its file for each tenant."""
    stack, api = one.stack, one.gateway.deps.api
    assert api is not None
    digest = sha256(_ASSET).digest()
    await api.artifacts.put(io.BytesIO(_ASSET), digest, len(_ASSET))
    found = Known({}, {}, {}, {})
    for tenant in ("acme", "beta"):
        events = await stack.fetch(
            "SELECT z.tracking_id FROM settlements z JOIN sources s ON s.id = z.source_id"
            " WHERE s.name = $1 AND z.tenant = $2 ORDER BY z.tracking_id",
            SENDER, tenant,
        )  # fmt: skip
        event_id = events[0]["tracking_id"]
        import_id = new_tracking_id(datetime.now(UTC), os.urandom(10))
        await stack.value(
            "INSERT INTO inbox SELECT $1, $2, source_id, account, livemode, $4,"
            " 'sluice.import', occurred_at, subject, lane, unreadable, secret, headers, body,"
            " trace_context FROM inbox WHERE tracking_id = $3",
            received_at_of(import_id), import_id, event_id, str(import_id),
        )  # fmt: skip
        digested = tokens.digest_of(await one.token(f"tenant:{tenant}"))
        async with stack.owner.connection() as conn:
            token = await tokens.find_by_digest(conn, digested)
        assert token is not None
        job_id = uuid4()
        order = CancelJob(job_id)
        placed = await api.orders.place(token, order, key=None, trace_context="")
        for kind, number in (("import", import_id), ("export", job_id)):
            await stack.value(
                "INSERT INTO jobs (id, kind, source_id, tenant, actor, state, finished_at, done)"
                " VALUES ($1, $2, $3, $4, 'test', 'done', now(), 3)",
                number, kind, stack.sources[SENDER], tenant,
            )  # fmt: skip
        await stack.value(
            "INSERT INTO job_assets (job, name, media_type, size_bytes, sha256)"
            " VALUES ($1, 'rejected.ndjson', 'application/x-ndjson', $2, $3)",
            job_id, len(_ASSET), digest,
        )  # fmt: skip
        ids = (event_id, import_id, placed.tracking_id, job_id)
        for kept, number in zip(vars(found).values(), ids, strict=True):
            kept[tenant] = str(number)
    await stack.drain()  # or the orders would be carried out with what is done to others
    return found


# What is tried ----------------------------------------------------------------------------------


def parameters_of(operation: Operation) -> list[str]:
    """The entries of `PARAMETERS` that its path needs."""
    found = [(place["step"], place["name"]) for place in _PARAMETER.finditer(operation.path)]
    return [f"{step}/{name}" if f"{step}/{name}" in PARAMETERS else name for step, name in found]


def path_of(operation: Operation, found: Known, tenant: str) -> str:
    """The operation's path, filled with what is the tenant's."""
    entries = iter(parameters_of(operation))
    return _PARAMETER.sub(
        lambda place: f"{place['step']}/{quote(PARAMETERS[next(entries)](found, tenant), safe='')}",
        operation.path,
    )


def queries_of(operation: Operation) -> list[str]:
    if not issubclass(operation.query, msgspec.Struct):
        return []
    return [field.encode_name for field in msgspec.structs.fields(operation.query)]


def body_of(operation: Operation, found: Known, tenant: str) -> Any:
    return BODIES[operation.name](found, tenant) if operation.name in BODIES else None


def has_body(operation: Operation) -> bool:
    return operation.method == "POST" and bool(msgspec.structs.fields(operation.body))


def attempts(operation: Operation, found: Known, tenant: str) -> list[tuple[str, Any]]:
    """Every way in which a request of this operation can name what is the tenant's."""
    tried: list[tuple[str, Any]] = []
    if names_somebody(operation):
        tried.append((path_of(operation, found, tenant), body_of(operation, found, "acme")))
    for query in queries_of(operation):
        value = QUERIES[query](found, tenant)
        if value is not None:
            asked = httpx.QueryParams({query: value})
            own = path_of(operation, found, "acme")
            tried.append((f"{own}?{asked}", body_of(operation, found, "acme")))
    if operation.name in BODIES:
        tried.append(
            (path_of(operation, found, "acme"), body_of(operation, found, tenant)),
        )
    return tried


def names_somebody(operation: Operation) -> bool:
    """Whether its path holds an id that is a tenant's: a source is nobody's."""
    return bool(set(parameters_of(operation)) - {"source", "feature", "name"})


def names(operations: list[Operation]) -> list[str]:
    return [f"{one.method} {one.path}" for one in operations]


EVERY = list(OPERATIONS)


def test_the_tables_cover_every_route() -> None:
    """A route that is new says here what another tenant's looks like in it."""
    places = {place for one in EVERY for place in parameters_of(one)}
    assert places <= PARAMETERS.keys(), "say in PARAMETERS what another tenant's looks like"
    queries = {query for one in EVERY for query in queries_of(one)}
    assert queries <= QUERIES.keys(), "say in QUERIES what names another tenant"
    bodies = {one.name for one in EVERY if has_body(one)}
    assert bodies <= BODIES.keys(), "say in BODIES what a body says of another tenant"


async def ask(
    deployment: Deployment, token: str, operation: Operation, path: str, body: Any
) -> httpx.Response:
    more = {} if body is None else {"json": body}
    return await deployment.ask(token, path, operation.method, **more)


# Acceptance -------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", EVERY, ids=names(EVERY))
async def test_anothers_looks_like_none(deployment: Deployment, operation: Operation) -> None:
    """
    404 for whatever names another tenant or what is its own, and the same to the byte as for what
    nobody has. A list that is asked for what is another's may be empty, as it is for what nobody
    has. What no tenant's token may do is 404 where a path names something, and otherwise 403.
    """
    found = await known(deployment)
    token = await deployment.token("tenant:acme")
    theirs = attempts(operation, found, "beta")
    nobodys = attempts(operation, found, "nobody")
    if "tenant" not in operation.who:
        # Whatever it is asked for, its own included.
        theirs = [*theirs, (path_of(operation, found, "acme"), None)]
        nobodys = [*nobodys, (path_of(operation, found, "nobody"), None)]
    for (path, body), (absent, other_body) in zip(theirs, nobodys, strict=True):
        answer = await ask(deployment, token, operation, path, body)
        control = await ask(deployment, token, operation, absent, other_body)
        where = f"{operation.method} {path}: {answer.text}"
        if operation.is_list and answer.status_code == 200:
            assert answer.json()["data"] == [], where
        elif "tenant" not in operation.who and not parameters_of(operation):
            assert answer.status_code == 403, where
        else:
            assert answer.status_code == 404, where
        assert told(answer) == told(control), where
        assert "beta" not in answer.text, where


@pytest.mark.parametrize("operation", EVERY, ids=names(EVERY))
async def test_own_answers_hold_nothing_of_others(
    deployment: Deployment, operation: Operation
) -> None:
    """Whatever a tenant may ask about itself, the other tenant's name and ids are not in it."""
    if "tenant" not in operation.who:
        return
    found = await known(deployment)
    token = await deployment.token("tenant:acme")
    body = body_of(operation, found, "acme")
    path = path_of(operation, found, "acme")
    answer = await ask(deployment, token, operation, path, body)
    assert answer.status_code in (200, 202), answer.text
    assert "beta" not in answer.text
    assert not any(name in answer.text for name in found.of("beta"))


LISTS = [one for one in EVERY if one.is_list and "cursor" in queries_of(one)]


@pytest.mark.parametrize("operation", LISTS, ids=names(LISTS))
@pytest.mark.parametrize("scope", ["tenant:beta", "service"])
async def test_anothers_cursor_is_none(
    deployment: Deployment, operation: Operation, scope: str
) -> None:
    """Of what follows whose row, nothing may be learned."""
    found = await known(deployment)
    theirs = await deployment.token(scope)
    path = path_of(operation, found, "beta")
    page = await deployment.ask(theirs, f"{path}?limit=1")
    if page.status_code in (403, 404):
        assert scope.partition(":")[0] not in operation.who
        return
    cursor = page.json()["meta"]["next"]
    if cursor is None:
        assert "tenant" not in operation.who or not page.json()["data"][1:]
        return
    token = await deployment.token("tenant:acme")
    path = path_of(operation, found, "acme")
    answer = await deployment.ask(token, f"{path}?limit=1&cursor={cursor}")
    assert answer.status_code in ((400,) if "tenant" in operation.who else (403, 404)), answer.text
    control = await deployment.ask(token, f"{path}?limit=1&cursor=AAAA")
    assert told(answer) == told(control)


async def test_finding_nothing_takes_as_long(deployment: Deployment) -> None:
    """By the median of many, taken in turns: another's id and nobody's cannot be told apart."""
    found = await known(deployment)
    token = await deployment.token("tenant:acme")
    for operation in (one for one in EVERY if one.method == "GET"):
        theirs, nobodys = (attempts(operation, found, one) for one in ("beta", "nobody"))
        for (path, _), (absent, _) in zip(theirs, nobodys, strict=True):
            took: dict[str, list[float]] = {path: [], absent: []}
            for _ in range(25):
                for one, times in took.items():
                    began = time.perf_counter()
                    await deployment.ask(token, one)
                    times.append(time.perf_counter() - began)
            a, b = (statistics.median(times) for times in took.values())
            assert abs(a - b) < max(0.004, 0.5 * min(a, b)), (path, a, b)


# Inference --------------------------------------------------------------------------------------


async def snapshot(
    deployment: Deployment, found: Known, token: str
) -> dict[str, tuple[int, dict[str, str], Any]]:
    """Every GET that a tenant can ask about itself, all pages of lists."""
    answers = {}
    for operation in EVERY:
        if operation.method != "GET" or not_of_tenants(operation):
            continue
        base = path_of(operation, found, "acme")
        path = f"{base}?limit=2" if "limit" in queries_of(operation) else base
        page = 0
        while True:
            answer = await deployment.ask(token, path)
            status, headers, body = told(answer)
            if isinstance(body, bytes):
                answers[base] = (status, headers, body)
                break
            if isinstance(body["data"], dict) and body["data"].pop("at", None) is not None:
                headers.pop("etag", None)  # it says the moment of asking, and so is new each time
            following = body["meta"].pop("next", None) if status == 200 else None
            answers[f"{base} {page}"] = (status, headers, body)
            if following is None:
                break
            # A cursor is another text each time: what it tells is how long it is.
            body["meta"]["next"] = len(following)
            if not body["meta"]["hasMore"]:
                break  # the feed has one even so, to come back with
            page += 1
            path = f"{base}?limit=2&cursor={following}"
    return answers


def not_of_tenants(operation: Operation) -> bool:
    """What is about the deployment, or of nobody: its health, and the document of the API."""
    return "tenant" not in operation.who or "/health" in operation.path


async def test_what_others_do_cannot_be_inferred(deployment: Deployment) -> None:
    """
    Another tenant gets subscriptions, licences, records, members, gifts, is paid for, merged and
    refunded: every answer to this one is what it was, counts, cursors and headers included.
    """
    found = await known(deployment)
    token = await deployment.token("tenant:acme")
    before = await snapshot(deployment, found, token)
    assert len(before) >= 6
    assert {status for status, _, _ in before.values()} == {200}
    for number in range(2, 12):
        await deployment.populate("beta", number)
    await deployment.populate("gamma")
    many = [report(f"x{n}", n, id=f"rep_x{n}", tenant="gamma") for n in range(300)]
    await deployment.stack.apply(*many, source=SENDER)
    ended = subscription("sub_beta_1", customer="cus_beta", tenant="beta", status="canceled")
    deleted = event(
        "customer.subscription.deleted", ended, event_id="evt_end", created=1_900_000_000
    )
    await deployment.stack.apply(deleted)
    await deployment.stack.value(
        "UPDATE tenants SET merged_into = 'gamma', merged_at = now() WHERE tenant = 'beta'"
    )
    service = await deployment.token("service")
    for path in (f"/api/v1/records/{_record_of('beta')}/reprocess",):
        assert (await deployment.ask(service, path, "POST")).status_code == 202
    assert await snapshot(deployment, found, token) == before


async def test_a_gift_says_nothing_of_how_many_there_are(deployment: Deployment) -> None:
    """What an operator gave has a row's number for a name, which counts everybody's objects."""
    path = "/api/v1/tenants/acme/entitlements"
    own = await deployment.ask(await deployment.token("tenant:acme"), path)
    given = [
        grant["object"]
        for one in own.json()["data"]["entitlements"]
        for grant in one["grants"]
        if grant["source"] == "operator"
    ]
    assert given == ["manual"]
    service = await deployment.ask(await deployment.token("service"), path)
    assert '"manual/100' in service.text


async def test_an_end_says_nothing_of_how_many_there_are(deployment: Deployment) -> None:
    """What the clock ended is told to the trail under the number of what gave it."""
    await deployment.stack.value(
        "UPDATE grants SET valid_until = now() - interval '1 s', turns_at = now() - interval '1 s'"
        " WHERE tenant = 'acme' AND feature = 'exports'"
    )
    more = subscription("sub_more", customer="cus_acme", tenant="acme")
    await deployment.stack.apply(event("customer.subscription.created", more, event_id="evt_m"))
    path = "/api/v1/tenants/acme/entitlements/exports"
    own = await deployment.ask(await deployment.token("tenant:acme"), path)
    record = own.json()["data"]["record"]
    assert record["cause"] == "end"
    assert record["causeId"].startswith("manual:exports:until:")
    assert record["subject"] == "manual"
    assert "1000" not in own.text
    service = await deployment.ask(await deployment.token("service"), path)
    assert service.json()["data"]["record"]["causeId"].startswith("1000")


# Merged tenants ---------------------------------------------------------------------------------


async def test_a_token_for_an_old_name_reaches_the_other_by_that_name_only(
    deployment: Deployment,
) -> None:
    """acme was merged into beta: its token goes on, by its own name; gamma stays out of reach."""
    await deployment.populate("gamma")
    await deployment.stack.value(
        "UPDATE tenants SET merged_into = 'beta', merged_at = now() WHERE tenant = 'acme'"
    )
    token = await deployment.token("tenant:acme")
    other = await deployment.token("tenant:gamma")
    for part in ("members", "entitlements", "entitlements/seats"):
        own = await deployment.ask(token, f"/api/v1/tenants/acme/{part}")
        assert own.status_code == 200
        assert "gamma" not in own.text
        for asked, name in ((token, "beta"), (token, "gamma"), (other, "acme"), (other, "beta")):
            answer = await deployment.ask(asked, f"/api/v1/tenants/{name}/{part}")
            nobody = await deployment.ask(asked, f"/api/v1/tenants/nobody/{part}")
            assert answer.status_code == 404
            assert told(answer) == told(nobody)
    members = (await deployment.ask(token, "/api/v1/tenants/acme/members")).json()["data"]
    assert {one["customer"] for one in members} == {"beta"}
    billing = (await deployment.ask(token, "/api/v1/billing/status")).json()["data"]
    assert (billing["tenant"], billing["mergedInto"]) == ("acme", "beta")
    refused = await deployment.ask(token, "/api/v1/billing/status?tenant=beta")
    assert refused.status_code == 404


async def test_whoever_sees_all_says_whom(deployment: Deployment) -> None:
    path = "/api/v1/billing/status"
    for scope in ("service", "operator"):
        token = await deployment.token(scope)
        missing = await deployment.ask(token, path)
        assert (missing.status_code, missing.json()["error"]["details"][0]["pointer"]) == (
            400, "/tenant",
        )  # fmt: skip
        named = await deployment.ask(token, f"{path}?tenant=acme")
        assert named.json()["data"]["status"] == "active"
        absent = await deployment.ask(token, f"{path}?tenant=nobody")
        assert absent.status_code == 404
    own = await deployment.token("tenant:acme")
    shown = await deployment.ask(own, path)
    assert shown.json() | {"meta": 0} == named.json() | {"meta": 0}
    assert headers_of(shown) == headers_of(named)
    assert json.loads(shown.text)["data"]["subscriptionsTotal"] == 1
