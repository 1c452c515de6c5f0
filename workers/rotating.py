"""
A source's secret is replaced, or ended: by an order or by an operator's command, in one way.

Whoever asks has a transaction; in it comes the configuration's new version, by which every gateway
learns of it.
"""

from dataclasses import dataclass
from typing import Any

from shared.db import Conn
from shared.domain.commands import RotateSecret
from shared.domain.outcomes import SECRET_MOVED_ON, UNKNOWN_SOURCE
from shared.sealing import Sealed
from shared.store import audit, operating
from shared.store.paging import iso

ROTATED = "secret.rotated"
RETIRED = "secret.retired"


@dataclass(frozen=True, slots=True)
class Rotated:
    """What it came to: `before` and `after` as the audit trail has them, or why it was refused."""

    code: str | None
    before: dict[str, Any]
    after: dict[str, Any]


async def rotate(conn: Conn, order: RotateSecret, actor: str) -> Rotated:
    """
    Put the new secret beside the one that it replaces, in the caller's transaction.

    Only where the source's secrets are as they were when it was sealed: nothing is written over,
    and a secret that was taken away does not come back.
    """
    await operating.take_turn(conn)
    held = await operating.hold_source(conn, order.source)
    if held is None:
        return Rotated(UNKNOWN_SOURCE, {}, {})
    places = await operating.read_places(conn, held.id)
    newest = max([held.secret_version, *(version for version, _ in places.values())])
    is_as_it_was = (
        newest == order.version - 1
        and order.slot not in places
        and places.get(order.replaces) == (order.replaces_version, None)
    )
    if not is_as_it_was:
        return Rotated(SECRET_MOVED_ON, {}, {})
    sealed = Sealed(order.key_id, order.nonce, order.ciphertext)
    await operating.add_secret(conn, held.id, order.slot, order.version, sealed, actor)
    retires_at = await operating.retire_secret(
        conn, held.id, order.replaces, order.replaces_version, order.overlap_s
    )
    await operating.add_version(conn, actor)
    return Rotated(
        None,
        {"secret": f"{order.replaces}.{order.replaces_version}"},
        {"secret": f"{order.slot}.{order.version}", "oldRetiresAt": iso(retires_at)},
    )


class NotRetirable(Exception):
    """There is no such secret, it has ended, or it is the last one that has no end."""


async def retire(conn: Conn, source: str, label: str, actor: str) -> Rotated:
    """
    Let a secret open nothing any more, from now on, in the caller's transaction.

    Raises:
        NotRetirable: see there.
    """
    await operating.take_turn(conn)
    held = await operating.hold_source(conn, source)
    if held is None:
        return Rotated(UNKNOWN_SOURCE, {}, {})
    places = await operating.read_places(conn, held.id)
    labels = {f"{slot}.{version}": slot for slot, (version, _) in places.items()}
    if label not in labels:
        known = ", ".join(sorted(labels)) or "none"
        raise NotRetirable(f"{source} has no secret {label}; it has {known}")
    slot = labels[label]
    version, before = places[slot]
    if before is not None and before <= (await audit.moment(conn))[0]:
        # Its end would be moved: what it was is in the trail, and in what events say.
        raise NotRetirable(f"{label} of {source} has ended already, at {iso(before)}")
    if not any(end is None for other, (_, end) in places.items() if other != slot):
        raise NotRetirable(f"{label} is the only secret of {source} without an end: rotate it")
    retires_at = await operating.retire_secret(conn, held.id, slot, version, 0)
    await operating.add_version(conn, actor)
    return Rotated(
        None,
        {"secret": label, "retiresAt": iso(before)},
        {"secret": label, "retiresAt": iso(retires_at)},
    )
