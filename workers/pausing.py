"""
Whether a source is paused: said by an order or by an operator's command, in one way.

A paused source's events are received and stored, and none is applied until it is resumed.
"""

from dataclasses import dataclass
from typing import Any

from shared.db import Conn
from shared.domain.outcomes import Outcome
from shared.store import operating
from shared.store.paging import iso

PAUSED = "source.paused"
RESUMED = "source.resumed"


@dataclass(frozen=True, slots=True)
class Switched:
    """What it came to; `before` and `after` as the audit trail has them, where it was applied."""

    outcome: Outcome
    before: dict[str, Any]
    after: dict[str, Any]


async def switch(
    conn: Conn, source: str, *, is_paused: bool, actor: str, work_id: int
) -> Switched | None:
    """
    Pause or resume a source, in the caller's transaction; None where there is no such source.

    `work_id` is the place of who asks in the order of work: what came before the last one that was
    heeded is `superseded`. What is so already is `unchanged`.
    """
    await operating.take_turn(conn)
    held = await operating.hold_source(conn, source)
    if held is None:
        return None
    before = {"pausedAt": iso(held.paused_at), "pausedBy": held.paused_by}
    if work_id < held.ordered_work:
        return Switched("superseded", before, before)
    if (held.paused_at is not None) == is_paused:
        await operating.note_order(conn, held.id, work_id)
        return Switched("unchanged", before, before)
    await operating.set_paused(conn, held.id, is_paused=is_paused, actor=actor, work_id=work_id)
    after = await operating.hold_source(conn, source)
    assert after is not None  # it is locked
    await operating.add_version(conn, actor)
    return Switched(
        "applied", before, {"pausedAt": iso(after.paused_at), "pausedBy": after.paused_by}
    )
