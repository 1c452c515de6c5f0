"""Open the next run of a settled event, on an operator's word."""

from dataclasses import dataclass
from uuid import UUID

from shared.db import Conn
from shared.store import replays
from workers.actions import record_action, replay_action


class UnknownEvent(Exception):
    """No event was ever received under this tracking id."""


class Unfinished(Exception):
    """The event has a run that is not settled yet: there is nothing to apply again."""


class BodyGone(Exception):
    """The event is known, but its body went by retention."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The run that now waits, the lane it waits in, and the id of the action in the audit trail."""

    run: int
    lane: int
    action_id: UUID


async def open_run(conn: Conn, tracking_id: UUID, actor: str, reason: str) -> Opened:
    """
    Write the work row of the next run, and the audit record, in the caller's transaction.

    The lane is rung by the caller, after the commit.

    Raises:
        UnknownEvent, Unfinished, BodyGone: see there; nothing was written.
    """
    evidence = await replays.find_evidence(conn, tracking_id)
    if evidence is None:
        unfinished, settled = await replays.latest_runs(conn, tracking_id)
        if unfinished is None and settled is None:
            raise UnknownEvent(f"no event {tracking_id}")
        raise BodyGone(f"{tracking_id} cannot be applied again: its body went by retention")
    await replays.lock_lane(conn, evidence.lane)
    unfinished, settled = await replays.latest_runs(conn, tracking_id)
    if unfinished is not None or settled is None:
        raise Unfinished(
            f"run {unfinished or 1} of {tracking_id} is not settled yet; what failed comes again by"
            f" itself, when: sluice events show {tracking_id}"
        )
    run = settled + 1
    await replays.insert_run(conn, tracking_id, evidence, run, actor, reason)
    action_id = replay_action(tracking_id, run)
    await record_action(
        conn,
        action_id,
        "event.replayed",
        actor,
        source=evidence.source,
        subject=evidence.subject,
        after={"trackingId": str(tracking_id), "eventId": evidence.event_id, "run": run},
        reason=reason,
    )
    return Opened(run, evidence.lane, action_id)
