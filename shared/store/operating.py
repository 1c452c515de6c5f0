"""
What operators do to a source while it runs: pause it, resume it, put a new secret beside an old.

Whoever writes here has taken its turn with `sluice apply`, and writes a new version of the
configuration in the same transaction: by that every process learns of it.
"""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from shared.db import Conn
from shared.sealing import Sealed


@dataclass(frozen=True, slots=True)
class HeldSource:
    """
    A source under its row's lock. `ordered_work` is the work of the last order that paused or
    resumed it; `secret_version` the newest that any of its secrets ever had.
    """

    id: int
    paused_at: datetime | None
    paused_by: str | None
    ordered_work: int
    secret_version: int


HOLD_SOURCE = """
SELECT id, paused_at, paused_by, ordered_work, secret_version
FROM sources WHERE name = $1 AND removed_at IS NULL AND provider <> 'sluice'
FOR NO KEY UPDATE
"""


async def hold_source(conn: Conn, name: str) -> HeldSource | None:
    """Lock a source; None where there is none of that name, or only one of Sluice's own."""
    row = await conn.fetchrow(HOLD_SOURCE, name)
    return None if row is None else HeldSource(*row.values())


NEXT_WORK = "SELECT nextval('work_order')"


async def next_work(conn: Conn) -> int:
    """A number in the order of work, for what is done at once and has no work of its own."""
    number: int = await conn.fetchval(NEXT_WORK)
    return number


SET_PAUSED = """
UPDATE sources SET paused_at = CASE WHEN $2 THEN now() END, paused_by = $3, ordered_work = $4
WHERE id = $1
"""


async def set_paused(
    conn: Conn, source_id: int, *, is_paused: bool, actor: str, work_id: int
) -> None:
    """Write whether the source is paused from now on, and which work said so."""
    await conn.execute(SET_PAUSED, source_id, is_paused, actor if is_paused else None, work_id)


NOTE_ORDER = "UPDATE sources SET ordered_work = $2 WHERE id = $1"


async def note_order(conn: Conn, source_id: int, work_id: int) -> None:
    """Say which work was the last to ask for what is so already."""
    await conn.execute(NOTE_ORDER, source_id, work_id)


WAS_APPLIED = """
SELECT EXISTS (SELECT FROM settlements WHERE tracking_id = $1 AND status = 'processed')
"""


async def was_applied(conn: Conn, tracking_id: UUID) -> bool:
    """Whether an earlier run of the event did what it asks for."""
    found: bool = await conn.fetchval(WAS_APPLIED, tracking_id)
    return found


READ_PLACES = """
SELECT slot, version, retires_at FROM source_secrets WHERE source_id = $1 ORDER BY slot
"""


async def read_places(conn: Conn, source_id: int) -> dict[int, tuple[int, datetime | None]]:
    """By slot: the version of the secret in it, and from when on it opens nothing."""
    rows = await conn.fetch(READ_PLACES, source_id)
    return {row["slot"]: (row["version"], row["retires_at"]) for row in rows}


RETIRE = """
UPDATE source_secrets SET retires_at = now() + make_interval(secs => $4)
WHERE source_id = $1 AND slot = $2 AND version = $3
RETURNING retires_at
"""


async def retire_secret(
    conn: Conn, source_id: int, slot: int, version: int, overlap_s: int
) -> datetime:
    """Let a secret open nothing any more after `overlap_s`; returns from when on."""
    retires_at: datetime = await conn.fetchval(RETIRE, source_id, slot, version, float(overlap_s))
    return retires_at


ADD_SEALED = """
INSERT INTO source_secrets (source_id, slot, version, key_id, nonce, ciphertext, added_by)
VALUES ($1, $2, $3, $4, $5, $6, $7)
"""
NOTE_VERSION = "UPDATE sources SET secret_version = $2 WHERE id = $1"


async def add_secret(
    conn: Conn, source_id: int, slot: int, version: int, sealed: Sealed, actor: str
) -> None:
    """Put a secret into a free slot. From now on, a process without its key refuses to start."""
    await conn.execute(
        ADD_SEALED,
        source_id,
        slot,
        version,
        sealed.key_id,
        sealed.nonce,
        sealed.ciphertext,
        actor,
    )
    await conn.execute(NOTE_VERSION, source_id, version)
    await keep_seal(conn, sealed.key_id)


KEEP_SEAL = "INSERT INTO seals (key_id) VALUES ($1) ON CONFLICT (key_id) DO NOTHING"


async def keep_seal(conn: Conn, key_id: str) -> None:
    """From now on, a process without this key refuses to start."""
    await conn.execute(KEEP_SEAL, key_id)


TAKE_TURN = "SELECT pg_advisory_xact_lock(hashtext('sluice.apply'))"
ADD_VERSION = """
INSERT INTO configuration (version, actor, mode)
SELECT version + 1, $1, mode FROM configuration ORDER BY version DESC LIMIT 1
RETURNING version
"""


async def take_turn(conn: Conn) -> None:
    """Wait for every other change of the configuration, as long as `lock_timeout` says."""
    await conn.execute(TAKE_TURN)


async def add_version(conn: Conn, actor: str) -> int:
    """The version by which every process learns of the change; the caller took its turn."""
    version: int = await conn.fetchval(ADD_VERSION, actor)
    return version
