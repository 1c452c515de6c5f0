"""
The spine: from a request to an acknowledged event.

Verify, then claim (L2); store, then acknowledge (L1). What may stop a request on its way is an
exception, and `gateway.app` holds the table of answers.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway.door import Visit
from gateway.envelope import Refusal, answer
from gateway.headers import read_headers, storable_headers
from gateway.refusing import Refusals
from gateway.sources import Entrance, Sources
from shared import telemetry
from shared.domain.events import (
    Headers,
    Identity,
    new_tracking_id,
    problem_with,
    unreadable_identity,
)
from shared.providers.base import PayloadError, Provider, Reply, SignatureError
from shared.sealing import KeyRing
from shared.store.intake import Delivery, Receipt, sha_of

log = logging.getLogger(__name__)

#: A body that has not arrived after this long is not waited for.
_BODY_TIMEOUT_S = 10.0

#: A body of this size may take long to read: a sender's expressions over 1 MiB a second and more.
#: It is read beside the loop, one at a time of each source, so that it delays no other source.
_LARGE_BODY_BYTES = 32 << 10
_apart = ThreadPoolExecutor(4, "large-bodies")

_encode = msgspec.json.Encoder().encode


class Store(Protocol):
    """Where verified deliveries go: `gateway.intake.Intake`."""

    async def submit(self, delivery: Delivery) -> Receipt:
        """See `gateway.intake.Intake.submit`."""
        ...


@dataclass(frozen=True, slots=True)
class Ingress:
    """What `receive` needs. `now` is aware UTC; `refusals` keeps samples of what was refused."""

    sources: Sources
    store: Store
    keys: KeyRing
    max_body_bytes: int
    tolerance_s: int
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    refusals: Refusals | None = None


async def receive(request: Request) -> Response:
    """`POST /api/v1/webhooks/{source}`: 200 once the event is durable, new and duplicate alike."""
    ingress: Ingress = request.app.state.ingress
    visit: Visit = request.scope["visit"]
    entrance = await ingress.sources.find(request.path_params["source"])
    source = entrance.source
    visit.source = source.name
    body = await read_body(request, ingress.max_body_bytes)
    headers = read_headers(request)
    now = ingress.now()
    read = partial(_read, entrance, headers, body, now, ingress.tolerance_s)
    try:
        if len(body) < _LARGE_BODY_BYTES:
            found = read()
        else:
            async with entrance.reading:
                found = await asyncio.get_running_loop().run_in_executor(_apart, read)
    except SignatureError as error:
        if ingress.refusals is not None:
            ingress.refusals.note(
                entrance, "webhook", error.code, now, headers, body, len(body), request.scope,
                visit.trace_id,
            )  # fmt: skip
        raise
    if isinstance(found, Reply):
        return _shake_hands(visit, found)
    provider, label, identity, unreadable = found
    receipt = await ingress.store.submit(
        Delivery(
            tracking_id=new_tracking_id(now, os.urandom(10)),
            source_id=source.id,
            lane=source.lane_of(identity.subject),
            identity=identity,
            unreadable=unreadable,
            secret=label,
            headers=_encode(storable_headers(headers, ingress.keys, provider.secret_headers)),
            body=body,
            body_sha=sha_of(body),
            trace_context=telemetry.traceparent_of(visit.span),
        )
    )
    visit.outcome = receipt.status
    tracking_id = str(receipt.tracking_id)
    visit.describe(tracking_id, identity.event_type)
    return answer(
        {"received": True, "trackingId": tracking_id, "status": receipt.status}, visit.trace_id
    )


class _Read(NamedTuple):
    """What receipt reads of a verified event."""

    provider: Provider
    label: str
    identity: Identity
    unreadable: str | None


def _read(
    entrance: Entrance, headers: Headers, body: bytes, now: datetime, tolerance_s: int
) -> _Read | Reply:
    """Verify, then read; see `verify` for what it raises."""
    provider, label = verify(entrance, headers, body, now, tolerance_s)
    reply = _handshake(provider, headers, body)
    return reply or _Read(provider, label, *identify(provider, headers, body))


def _handshake(provider: Provider, headers: Headers, body: bytes) -> Reply | None:
    try:
        return provider.handshake(headers, body)
    except Exception:
        log.exception("a provider failed at a verified request", extra={"provider": provider.name})
        return None  # whatever it is, it is kept


def _shake_hands(visit: Visit, reply: Reply) -> Response:
    visit.outcome = "handshake"
    return Response(reply.body, reply.status, media_type=reply.media_type)


def verify(
    entrance: Entrance, headers: Headers, body: bytes, now: datetime, tolerance_s: int
) -> tuple[Provider, str]:
    """
    The provider, and the label of the secret that signed the request.

    Raises:
        SignatureError: it is not the provider's.
        Refusal: we cannot tell. Never a 401 for a fault of our own.
    """
    source, provider = entrance.source, entrance.provider
    if provider is None:
        raise Refusal("source_unreadable", "This source cannot be verified now.")
    secrets = source.secrets_at(now)
    plaintexts = [secret.plaintext for secret in secrets]
    shadow = entrance.shadow
    try:
        index = provider.verify(headers, body, plaintexts, now, tolerance_s)
    except SignatureError:
        if shadow is not None:
            shadow.check(headers, body, now, tolerance_s, is_accepted=False)
        raise
    if shadow is not None:
        shadow.check(headers, body, now, tolerance_s, is_accepted=True)
    telemetry.verified(source.name, len(body))
    return provider, secrets[index].label


def identify(provider: Provider, headers: Headers, body: bytes) -> tuple[Identity, str | None]:
    """Who the event is, or, where nobody can read that, its own digest and the reason."""
    try:
        identity = provider.identify(headers, body)
    except PayloadError as error:
        return unreadable_identity(body), _plain(str(error))
    except Exception as error:
        # An installed package's bug, which a replay will find mended. A sender that is answered
        # 500 again and again switches its endpoint off.
        log.exception("a provider failed at a verified request", extra={"provider": provider.name})
        return unreadable_identity(body), _plain(f"{type(error).__name__}: {error}")
    problem = problem_with(identity)
    return (identity, None) if problem is None else (unreadable_identity(body), problem)


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """
    The whole body, and never more than `limit_bytes` of it in memory.

    Raises:
        Refusal: it is larger, says that it is, or does not arrive.
    """
    declared = request.headers.get("content-length", "")
    # A length of more digits than any limit has is not worth parsing, and int() would refuse it.
    if declared.isdecimal() and (len(declared) > 18 or int(declared) > limit_bytes):
        raise Refusal("body_too_large", f"The body is larger than {limit_bytes} bytes.")
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise Refusal("body_timeout", "The body ended early.")
                chunk = message.get("body", b"")
                size += len(chunk)
                if size > limit_bytes:
                    raise Refusal("body_too_large", f"The body is larger than {limit_bytes} bytes.")
                chunks.append(chunk)
                if not message.get("more_body", False):
                    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
    except TimeoutError:
        raise Refusal("body_timeout", "The body did not arrive in time.") from None


def _plain(reason: str) -> str:
    # A parser may quote what it could not read, and Postgres takes neither NUL nor surrogates.
    return reason.replace("\0", "").encode("utf-8", "replace").decode()[:500]
