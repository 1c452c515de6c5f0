"""
The spine of pushes: from a third party's request to an acknowledged document.

As `gateway.ingress`: verify, then claim (L2); store, then acknowledge (L1). A document may be
large: it is verified and hashed while it comes, and lies in the artifact store before the row that
names it.
"""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway.door import Visit
from gateway.envelope import Refusal, answer
from gateway.headers import read_headers, storable_headers
from gateway.idempotency import REPLAYED, Claims, read_key
from gateway.ingress import Ingress
from gateway.intake import StoreUnavailable
from gateway.sources import Entrance, UnknownSource
from gateway.spooling import SMALL_BYTES, Limit, Spool, Spools
from gateway.validating import Form, check_document, read_form
from shared import telemetry
from shared.artifacts import ArtifactError, Artifacts
from shared.domain.events import IMPORT, Headers, Identity, is_storable, new_tracking_id
from shared.providers.base import SignatureError
from shared.providers.sender import Sender
from shared.providers.sender.ingestion import Ingestion
from shared.providers.signing.streams import Verification
from shared.store.intake import Delivery, Receipt

#: Where only the whole body proves a request (Ed25519, a time inside of it), it is read into
#: memory for that: so much at most, one at a time.
LARGEST_WHOLE_BYTES = 8 << 20


#: Documents are checked one at a time of each source, and artifacts written two at a time.
_apart = ThreadPoolExecutor(4, "pushes")
_WRITES_AT_ONCE = 2

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Ingest:
    """What `receive_push` needs, beside what webhooks do. `is_open`: events can be stored."""

    ingress: Ingress
    artifacts: Artifacts
    is_open: Callable[[], bool] = lambda: True
    spools: Spools = field(default_factory=Spools)
    claims: Claims = field(default_factory=Claims)
    writing: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_WRITES_AT_ONCE))
    proving: asyncio.Lock = field(default_factory=asyncio.Lock)


class Push(NamedTuple):
    """
    One request whose headers are in order. `name` is what it calls itself, None: its digest.
    `verification` is None where only the whole body can prove it.
    """

    entrance: Entrance
    sender: Sender
    ingestion: Ingestion
    headers: Headers
    at: datetime
    form: Form
    name: str | None
    verification: Verification | None

    @property
    def is_proven(self) -> bool:
        """Whether the headers alone have proven it: only the proven may claim."""
        return self.verification is not None and self.verification.is_proven


async def receive_push(request: Request) -> Response:
    """`POST /api/v1/ingest/SOURCE`: 202 once the document is durable, new and repeated alike."""
    ingest: Ingest = request.app.state.ingest
    visit: Visit = request.scope["visit"]
    push = await _begin(ingest, request, visit)
    source = push.entrance.source
    claim: AbstractContextManager[None]
    claim = nullcontext() if push.name is None else ingest.claims.held((source.id, push.name))
    early, late = (claim, nullcontext()) if push.is_proven else (nullcontext(), claim)
    with early:
        receiving = ingest.spools.receiving(request, source.id, _limit_of(push), push.verification)
        async with receiving as spool:
            try:
                label = await _prove(ingest, push, spool)
            except SignatureError as error:
                _note(
                    ingest, push.entrance, push.headers, push.at, error.code, spool, request, visit
                )
                raise
            if not spool.size_bytes:
                # More likely a file that was cut short than one without rows, and its id were used.
                raise Refusal("malformed_request", "The body is empty.")
            with late:
                await _check(push, spool)
                receipt = await _keep(ingest, push, spool, label, visit)
    if receipt.is_other:
        raise Refusal("key_reused", "This id or Idempotency-Key was used for another body.")
    visit.outcome = receipt.status
    tracking_id = str(receipt.tracking_id)
    visit.describe(tracking_id, IMPORT)
    return answer(
        {"trackingId": tracking_id, "statusUrl": f"/api/v1/ingest/{tracking_id}"},
        visit.trace_id,
        status=202,
        headers=REPLAYED if receipt.status == "duplicate" else None,
    )


async def _begin(ingest: Ingest, request: Request, visit: Visit) -> Push:
    """
    All that can be said before the body is read.

    Raises:
        UnknownSource, NotConfigured, StoreUnavailable: as for webhooks.
        SignatureError, Refusal: the headers say enough.
    """
    entrance = await ingest.ingress.sources.find(request.path_params["id"])
    source, sender = entrance.source, entrance.provider
    if sender is None:
        raise Refusal("source_unreadable", "This source cannot be verified now.")
    if not isinstance(sender, Sender) or sender.ingestion is None:
        raise UnknownSource(source.name)
    visit.source = source.name
    headers = read_headers(request)
    now = ingest.ingress.now()
    secrets = [secret.plaintext for secret in source.secrets_at(now)]
    try:
        verification = sender.begin(headers, secrets, now, ingest.ingress.tolerance_s)
    except SignatureError as error:
        _note(ingest, entrance, headers, now, error.code, None, request, visit)
        raise
    form = read_form(headers, sender.ingestion)
    name = _name_of(headers, sender, sender.ingestion)
    if not ingest.is_open():
        raise StoreUnavailable
    return Push(entrance, sender, sender.ingestion, headers, now, form, name, verification)


def _name_of(headers: Headers, sender: Sender, ingestion: Ingestion) -> str | None:
    """
    What makes a repetition the same push: the message's id, or else its key; None: its digest.

    Raises:
        Refusal: it has none, and needs one; or one that cannot be.
    """
    message = sender.message_of(headers)
    if message is not None:
        # An id is shown, and indexed.
        if not (message.isprintable() and is_storable(_event_id(message))):
            raise Refusal("malformed_request", "The message's id: 1 to 248 printable characters.")
        return message
    key = read_key(headers)
    if key is None and ingestion.needs_key:
        raise Refusal(
            "missing_idempotency_key",
            "Rows of this source have no version of their own: send an Idempotency-Key with each"
            " document, the same one whenever you send that document again.",
        )
    return key


def _note(
    ingest: Ingest,
    entrance: Entrance,
    headers: Headers,
    at: datetime,
    code: str,
    spool: Spool | None,
    request: Request,
    visit: Visit,
) -> None:
    """Keep a sample of a refused push; its body, where that is in memory."""
    refusals = ingest.ingress.refusals
    if refusals is None:
        return
    size = None if spool is None else spool.size_bytes
    body = None if spool is None or spool.file is not None else spool.whole()
    refusals.note(entrance, "push", code, at, headers, body, size, request.scope, visit.trace_id)


def _event_id(name: str) -> str:
    # Of its own: what webhooks of the source call themselves must not be taken for a push.
    return f"import/{name}"


def _limit_of(push: Push) -> Limit:
    largest_bytes = push.ingestion.largest_bytes
    if push.verification is not None or largest_bytes <= LARGEST_WHOLE_BYTES:
        return Limit(largest_bytes)
    return Limit(LARGEST_WHOLE_BYTES, "More cannot be read to check its signature.")


async def _prove(ingest: Ingest, push: Push, spool: Spool) -> str:
    """
    The label of the secret that proves the request, all of whose body is there.

    Raises:
        SignatureError: none does.
    """
    source = push.entrance.source
    if push.verification is not None:
        index = push.verification.finish()
    else:
        async with ingest.proving:
            index = await asyncio.get_running_loop().run_in_executor(
                _apart, partial(_verify_whole, push, spool, ingest.ingress.tolerance_s)
            )
    telemetry.verified(source.name, spool.size_bytes)
    return source.secrets_at(push.at)[index].label


def _verify_whole(push: Push, spool: Spool, tolerance_s: int) -> int:
    secrets = [secret.plaintext for secret in push.entrance.source.secrets_at(push.at)]
    return push.sender.verify(push.headers, spool.whole(), secrets, push.at, tolerance_s)


async def _check(push: Push, spool: Spool) -> None:
    """
    Raises:
        Refusal: it is JSON, small enough to be looked at, and not what the source takes.
    """
    if push.form.format != "json" or spool.file is not None:
        return
    async with push.entrance.reading:
        await asyncio.get_running_loop().run_in_executor(
            _apart, check_document, spool.whole(), push.form, push.ingestion
        )


async def _keep(ingest: Ingest, push: Push, spool: Spool, label: str, visit: Visit) -> Receipt:
    """
    Store the document: a large one as an artifact, and then the row that names it.

    Raises:
        Refusal: the artifact store did not take it.
        StoreUnavailable, Overloaded: as for webhooks.
    """
    digest, is_large = spool.digest, spool.size_bytes > SMALL_BYTES
    if is_large:
        assert spool.file is not None
        try:
            async with ingest.writing:
                await ingest.artifacts.put(spool.file, digest, spool.size_bytes)
        except ArtifactError as error:
            raise Refusal("store_unavailable", "The document cannot be stored now.") from error
    source, ingress = push.entrance.source, ingest.ingress
    event_id = _event_id(push.name or f"sha256:{digest.hex()}")
    kept = storable_headers(push.headers, ingress.keys, push.sender.secret_headers)
    return await ingress.store.submit(
        Delivery(
            tracking_id=new_tracking_id(ingress.now(), os.urandom(10)),
            source_id=source.id,
            lane=source.lane_of(event_id),
            identity=Identity(event_id, IMPORT, event_id),
            unreadable=None,
            secret=label,
            headers=_encode(kept),
            body=b"" if is_large else spool.whole(),
            body_sha=digest,
            trace_context=telemetry.traceparent_of(visit.span),
            artifact_bytes=spool.size_bytes if is_large else None,
        )
    )
