"""A source's secret is replaced: `/api/v1/integrations/{source}/rotate-secret`."""

import os
import re
from dataclasses import dataclass, replace
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
from shared.db import Conn
from shared.domain.commands import Ordered, RotateSecret
from shared.providers.base import ConfigurationError
from shared.store import integrations, orders
from shared.store.intake import sha_of
from shared.store.integrations import SecretVersion

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604_800}
_DURATION = re.compile(r"(0|[1-9]\d{0,6})([smhdw]?)")
_LONGEST_OVERLAP_S = 90 * 86400
_RANDOM_BYTES = 32

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


def overlap_s(text: str) -> int:
    """
    A duration in seconds.

    Raises:
        ValueError: it is none, or too long.
    """
    found = _DURATION.fullmatch(text)
    if found is None or (not found[2] and found[1] != "0"):
        raise ValueError('overlap: write "90s", "30m", "24h", "7d" or "0"')
    seconds = int(found[1]) * _UNITS_S.get(found[2], 0)
    if seconds > _LONGEST_OVERLAP_S:
        raise ValueError("overlap: 90 days at most")
    return seconds


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the new secret goes, and which one it replaces."""

    slot: int
    version: int
    old: SecretVersion


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
    place = _place_of(versions, source.secret_version, body.slot)
    entrance = await entrance_of(call, name)
    secret = _secret_of(entrance, body.secret, place)
    sealed = call.api.keys.seal(secret, source=name, slot=place.slot, version=place.version)
    order = RotateSecret(
        source=name,
        slot=place.slot,
        version=place.version,
        key_id=sealed.key_id,
        nonce=sealed.nonce,
        ciphertext=sealed.ciphertext,
        overlap_s=overlap_s(body.overlap),
        replaces=place.old.slot,
        replaces_version=place.old.version,
    )
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


def _place_of(versions: list[SecretVersion], newest: int, slot: int | None) -> _Place:
    """
    Raises:
        Refusal: it is not clear which secret is to be replaced, or it is being replaced already.
    """
    active = [one for one in versions if one.retires_at is None]
    if slot is not None:
        active = [one for one in active if one.slot == slot]
        if not active:
            raise Refusal("conflict", f"The source has no secret in slot {slot} that does not end.")
    if not active:
        raise Refusal("conflict", "The source has no secret that could be replaced.")
    if len(active) > 1:
        slots = ", ".join(str(one.slot) for one in sorted(active, key=lambda one: one.slot))
        raise Refusal("conflict", f"The source has several secrets; say the slot of one: {slots}.")
    taken = {one.slot for one in versions}
    free = next(number for number in range(len(taken) + 1) if number not in taken)
    version = max([newest, *(one.version for one in versions)]) + 1
    return _Place(free, version, active[0])


def _secret_of(entrance: Entrance | None, given: str | None, place: _Place) -> str:
    """
    The new secret: the given one, or one that is made.

    Raises:
        Refusal: it can be none of this source's, or has to be given.
    """
    if entrance is None or entrance.provider is None:
        raise Refusal("source_unreadable", "This source cannot be verified now.")
    provider, known = entrance.provider, entrance.source.secrets
    if given is None:
        old = (place.old.slot, place.old.version)
        replaced = next((o.plaintext for o in known if (o.slot, o.version) == old), "")
        made = provider.new_secret(os.urandom(_RANDOM_BYTES), replaced)
        if made is None:
            raise _unfit(f"has to be said: the provider gives it ({provider.secret_hint})")
        return made
    if any(given == one.plaintext for one in known):
        raise _unfit("is one that the source has already")
    try:
        provider.check_secret(given)
    except ConfigurationError as error:
        raise _unfit(error.problem) from None
    return given


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
