"""
Everything that is sealed is sealed anew, by the first key of `SLUICE_SECRET_KEY`.

In batches, each a transaction under `sluice apply`'s turn: who stops in between has done so much,
and goes on where it ended. Labels stay, and no new version is written: what processes have loaded
is what it was, whichever keys they hold.
"""

from dataclasses import dataclass

from shared.db import Conn
from shared.domain.events import ORDERED
from shared.sealing import KeyRing, Sealed, SealingError
from shared.store import operating, secrets
from shared.store.secrets import SealedThing

REKEYED = "secrets.rekeyed"
BATCH = 100

_ROTATIONS = f"{ORDERED}rotate-secret"


@dataclass(frozen=True, slots=True)
class Rekeyed:
    """
    What a batch came to: how many were sealed anew, by kind. `is_over`: none is left. `forgotten`
    are the keys that nobody needs any more; `waiting` rotations hold secrets that may be sealed by
    an old one, and while there are any none is forgotten.
    """

    sealed: dict[str, int]
    is_over: bool
    forgotten: tuple[str, ...] = ()
    waiting: int = 0


async def rekey(conn: Conn, keys: KeyRing, *, limit: int | None = BATCH) -> Rekeyed:
    """
    Seal the next ones anew, in the caller's transaction.

    Raises:
        SealingError: one does not open: a key is missing, or it was altered. Nothing was written.
    """
    await operating.take_turn(conn)
    await secrets.await_audit_keys(conn)
    found = await secrets.read_sealed(conn, but_by=keys.first, limit=limit)
    counts: dict[str, int] = {}
    for one in found:
        await secrets.reseal(conn, one, _sealed_anew(one, keys))
        counts[one.kind] = counts.get(one.kind, 0) + 1
    if limit is not None and len(found) == limit:
        return Rekeyed(counts, is_over=False)
    waiting = await secrets.count_waiting(conn, _ROTATIONS)
    forgotten = () if waiting else tuple(await secrets.forget_seals(conn, keys.first))
    return Rekeyed(counts, is_over=True, forgotten=forgotten, waiting=waiting)


async def has_old(conn: Conn, keys: KeyRing) -> bool:
    """Whether anything is sealed with another key than the first, or another is still needed."""
    if await secrets.read_sealed(conn, but_by=keys.first, limit=1):
        return True
    return any(key_id != keys.first for key_id, _ in await secrets.read_seals(conn))


def _sealed_anew(one: SealedThing, keys: KeyRing) -> Sealed:
    source, slot, version, address = one.source, one.slot, one.version, one.address
    try:
        plaintext = keys.open(
            one.sealed, source=source, slot=slot, version=version, address=address
        )
    except SealingError as error:
        if one.kind != "audit_key":
            raise
        raise SealingError(
            f"{error}: add that key; if it is gone, `sluice audit rotate-key --lost`"
        ) from None
    return keys.seal(plaintext, source=source, slot=slot, version=version, address=address)
