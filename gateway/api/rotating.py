"""A source's secret is replaced: `/api/v1/integrations/{source}/rotate-secret`."""

import os
from dataclasses import replace
from typing import Annotated
from uuid import UUID

import msgspec

from gateway.api.integrations import entrance_of
from gateway.api.operations import (
    OPERATORS,
    ORDER_ERRORS,
    Call,
    Nothing,
    Operation,
    Shown,
    accepted,
    check_reason,
    no_such,
    order_url,
)
from gateway.envelope import Detail, Refusal
from gateway.orders import Placed, event_id_of, key_reused
from gateway.sources import Entrance
from shared import rotation
from shared.db import Conn
from shared.domain.commands import Ordered, RotateSecret
from shared.rotation import overlap_s
from shared.store import integrations, orders
from shared.store.intake import sha_of

_decode = msgspec.json.Decoder(Ordered).decode


class Rotation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """
    `secret` is what the provider gave; unless it is said, one is made, where the source's scheme
    leaves that to us. The old one works for `overlap` more: "90s", "30m", "24h", "7d", or "0".
    `slot` names the one to be replaced, where the source has several.
    """

    secret: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)] | None = None
    overlap: str = "24h"
    slot: Annotated[int, msgspec.Meta(ge=0, le=32_767)] | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be kept."""
        check_reason(self.reason)
        overlap_s(self.overlap)


class Rotated(msgspec.Struct, frozen=True, rename="camel"):
    """
    A rotation is ordered: `label` will be what events carry that the new secret proved, `replaces`
    is the old one's. `secret` is the one that was made, here and never again; null where it was
    given, and in the answer to a repeated request.
    """

    tracking_id: UUID
    status_url: str
    label: str
    replaces: str
    overlap_s: int
    secret: str | None


async def rotate_secret(call: Call[Nothing, Rotation]) -> Shown:
    """
    Put a new secret beside a source's, which goes on working for `overlap`.

    Begin to sign with the new one when the order is applied and two seconds have passed: by then
    every gateway knows it. A secret that is made here is shown in this answer only.
    """
    name, body = call.path["source"], call.body
    async with call.reading() as conn:
        source = await integrations.read_integration(conn, name)
        if source is None:
            raise no_such("source")
        asked = _asked(call)
        # Before anything is judged: what the first request did may be why a second could not be.
        repeated = await _find_repeated(call, conn, asked)
        if repeated is not None:
            return accepted(Placed(repeated.tracking_id, is_repeated=True), repeated)
        versions = (await integrations.read_secret_versions(conn, [source.id]))[source.id]
    try:
        place = rotation.place_of(versions, source.secret_version, body.slot)
    except rotation.UnclearRotation as error:
        raise Refusal("conflict", str(error)) from None
    secret = _secret_of(await entrance_of(call, name), body.secret, place)
    order = rotation.order_of(name, place, secret, call.api.keys, overlap_s=overlap_s(body.overlap))
    placed = await call.place(order, reason=body.reason, asked=asked)
    if placed.is_repeated:
        # Somebody was faster with the same key: the secret made here is nobody's.
        async with call.reading() as conn:
            return accepted(placed, await _rotated_before(conn, placed.tracking_id))
    shown = accepted(placed, _rotated(placed, order, secret if body.secret is None else None))
    return replace(shown, headers={**shown.headers, "Cache-Control": "no-store"})


def _asked(call: Call[Nothing, Rotation]) -> bytes:
    """
    What is asked for. The order made of it has another ciphertext each time, and often another
    secret; a given one is only here as a keyed digest, of which nothing is kept but the digest.
    """
    body = call.body
    secret = None if body.secret is None else call.api.keys.digest(body.secret)
    said = ["rotate-secret", call.path["source"], body.slot, overlap_s(body.overlap), body.reason]
    return msgspec.json.encode([*said, secret])


async def _find_repeated(call: Call[Nothing, Rotation], conn: Conn, asked: bytes) -> Rotated | None:
    """The first answer to a request that comes again under its key; None where it is new."""
    if call.key is None:
        return None
    found = await orders.find_order(conn, event_id_of(call.token, call.key))
    if found is None:
        return None
    tracking_id, digest = found
    if digest != sha_of(asked):
        raise key_reused()
    return await _rotated_before(conn, tracking_id)


async def _rotated_before(conn: Conn, tracking_id: UUID) -> Rotated:
    kept = await orders.read_order(conn, tracking_id)
    order = None if kept is None else _decode(kept.body).order
    if not isinstance(order, RotateSecret):
        # The ledger knows its key longer than the inbox keeps the order; a replica, later.
        raise Refusal("conflict", "The first answer to this Idempotency-Key cannot be read.")
    return _rotated(Placed(tracking_id, is_repeated=True), order, None)


def _rotated(placed: Placed, order: RotateSecret, secret: str | None) -> Rotated:
    return Rotated(
        tracking_id=placed.tracking_id,
        status_url=order_url(placed),
        label=f"{order.slot}.{order.version}",
        replaces=f"{order.replaces}.{order.replaces_version}",
        overlap_s=order.overlap_s,
        secret=secret,
    )


def _secret_of(entrance: Entrance | None, given: str | None, place: rotation.Place) -> str:
    """
    The new secret: the given one, or one that is made.

    Raises:
        Refusal: it can be none of this source's, or has to be given.
    """
    if entrance is None or entrance.provider is None:
        raise Refusal("source_unreadable", "This source cannot be verified now.")
    random = os.urandom(rotation.RANDOM_BYTES)
    try:
        return rotation.secret_of(entrance.provider, entrance.source.secrets, place, given, random)
    except rotation.UnfitSecret as error:
        raise _unfit(str(error)) from None


def _unfit(problem: str) -> Refusal:
    detail = Detail("/secret", problem)
    return Refusal("invalid_body", "The body is not what is asked for.", details=[detail])


OPERATIONS = (
    Operation(
        "POST",
        "/api/v1/integrations/{source}/rotate-secret",
        rotate_secret,
        "Put a new secret beside a source's",
        Rotated,
        who=OPERATORS,
        body=Rotation,
        status=202,
        errors=(*ORDER_ERRORS, "conflict", "source_unreadable"),
        tag="integrations",
    ),
)
