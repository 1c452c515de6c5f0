"""
What operators do to single events: have them tried at once, have them ignored, write a note.

Each is one transaction of the caller's together with its audit record. What was done to an event is
found by the event: all records of it stand in one chain, whose id is made of the tracking id.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from shared.db import Conn
from shared.domain.audit import Draft
from shared.domain.outcomes import IGNORED_BY_OPERATOR
from shared.store import audit, tended
from shared.store.tended import Tended
from workers.actions import act_of, encoded


class UnknownEvent(Exception):
    """No evidence of such an event is kept. The text names it."""


async def retry_events(
    conn: Conn, tracking_ids: Sequence[UUID], actor: str, reason: str
) -> tuple[dict[UUID, str], list[int]]:
    """
    Have unfinished events tried at once, uncharged.

    Returns what became of each: "due" now, due "already", "settled" before, or "unknown"; and the
    lanes to be rung after the commit.
    """
    became = await tended.make_due(conn, tracking_ids)
    found = await tended.find_events(conn, tracking_ids)
    made = [found[one] for one in tracking_ids if one in became and one in found]
    await _record(conn, made, "event.retried", actor, reason)
    answers = {
        one: "unknown" if one not in found
        else "due" if one in became
        else "settled" if found[one].work_id is None and found[one].status is not None
        else "already"
        for one in tracking_ids
    }  # fmt: skip
    return answers, sorted({one.lane for one in made})


async def ignore_events(
    conn: Conn, lane: int, tracking_ids: Sequence[UUID], actor: str, reason: str
) -> dict[UUID, str]:
    """
    Settle unfinished and dead events of one lane `ignored`.

    Waits for whoever is at the lane: what that settles is left as it is. Returns what became of
    each: "ignored" now, "settled" before, or "unknown".
    """
    await tended.lock_lane(conn, lane)
    found = await tended.find_events(conn, tracking_ids)
    mine = {
        one.tracking_id: one
        for one in found.values()
        if one.lane == lane and (one.work_id is not None or one.status == "dead")
    }
    now, xid = await audit.moment(conn)
    await audit.append(
        conn, [_ignored(one, actor, reason) for one in mine.values()], now=now, xid=xid
    )
    await tended.settle_ignored(conn, list(mine.values()), IGNORED_BY_OPERATOR)
    await tended.drop_work(conn, [one.work_id for one in mine.values() if one.work_id is not None])
    return {
        one: "ignored" if one in mine else "settled" if one in found else "unknown"
        for one in tracking_ids
    }


async def note_event(
    conn: Conn, tracking_id: UUID, text: str, actor: str, reason: str | None
) -> UUID:
    """
    Write a note about an event; returns the id under which the trail has it.

    Raises:
        UnknownEvent: see there.
    """
    found = (await tended.find_events(conn, [tracking_id])).get(tracking_id)
    if found is None:
        raise UnknownEvent(f"no event {tracking_id}, or its body went by retention")
    await _record(conn, [found], "event.noted", actor, reason, {"note": text})
    return act_of(tracking_id)


def _ignored(event: Tended, actor: str, reason: str) -> Draft:
    """The record that every run has; the lane's, since no tenant is locked."""
    return Draft(
        chain=f"lane:{event.lane}",
        cause="event",
        cause_id=str(event.tracking_id),
        run=event.ended_run,
        tenant="",
        step=0,
        action="event.ignored",
        actor=actor,
        source=event.source,
        subject=event.subject,
        reason=reason.encode(),
    )


async def _record(
    conn: Conn,
    events: Sequence[Tended],
    action: str,
    actor: str,
    reason: str | None,
    said: Mapping[str, Any] | None = None,
) -> None:
    if not events:
        return
    numbers = await tended.count_acts(conn, [act_of(one.tracking_id) for one in events])
    drafts = []
    for one in events:
        act = str(act_of(one.tracking_id))
        about = {"trackingId": str(one.tracking_id), "eventId": one.event_id, "run": one.run}
        drafts.append(
            Draft(
                chain=f"operator:{act}",
                cause="operator",
                cause_id=act,
                run=numbers.get(act, 0) + 1,
                tenant="",
                step=0,
                action=action,
                actor=actor,
                source=one.source,
                subject=one.subject,
                after=encoded({**about, **(said or {})}),
                reason=None if reason is None else reason.encode(),
            )
        )
    now, xid = await audit.moment(conn)
    await audit.append(conn, drafts, now=now, xid=xid)
