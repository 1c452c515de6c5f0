"""Open the next runs of settled events, on an operator's word."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from uuid import UUID

from shared.db import Conn
from shared.store import replays, retention
from shared.store.replays import Replayable
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

    tracking_id: UUID
    run: int
    lane: int
    action_id: UUID


async def open_runs(conn: Conn, ids: Collection[UUID], actor: str, reason: str) -> list[Opened]:
    """
    Write the work rows of the next runs, and an audit record of each, in the caller's transaction.

    The lanes are rung by the caller, after the commit.

    Raises:
        UnknownEvent, Unfinished, BodyGone: of one of them, see there; nothing was written.
    """
    await retention.keep_bodies(conn)
    evidence = await replays.find_evidence(conn, ids)
    gone = [one for one in ids if one not in evidence]
    if gone:
        runs = await replays.latest_runs(conn, gone)
        for one in gone:
            if runs[one] == (None, None):
                raise UnknownEvent(f"no event {one}")
        raise BodyGone(f"{gone[0]} cannot be applied again: its body went by retention")
    await replays.lock_lanes(conn, {one.lane for one in evidence.values()})
    wanted = {one: evidence[one] for one in ids}
    opened, runs = await open_where_settled(conn, wanted, actor, reason)
    for one in ids:
        if one not in opened:
            raise Unfinished(
                f"run {runs[one].unfinished or 1} of {one} is not settled yet; what failed comes"
                f" again by itself, when: sluice events show {one}"
            )
    return [
        Opened(
            one, run, evidence[one].lane, await _tell(conn, one, run, wanted[one], actor, reason)
        )
        for one, run in opened.items()
    ]


async def open_run(conn: Conn, tracking_id: UUID, actor: str, reason: str) -> Opened:
    """The same for one event."""
    (opened,) = await open_runs(conn, [tracking_id], actor, reason)
    return opened


async def open_where_settled(
    conn: Conn,
    wanted: Mapping[UUID, Replayable],
    actor: str,
    reason: str,
    frozen_at: Mapping[UUID, int] | None = None,
) -> tuple[dict[UUID, int], dict[UUID, replays.Runs]]:
    """
    Open the next run of each of these that has no unfinished one, in a transaction that has locked
    their lanes in an earlier statement; where `frozen_at` says at which settled run each was
    frozen, only of those that are still as they were.

    Returns:
        The runs that were opened, and how each of the events stood before.
    """
    runs = await replays.latest_runs(conn, wanted)
    opening: dict[UUID, tuple[Replayable, int]] = {}
    for one, evidence in wanted.items():
        unfinished, settled = runs[one]
        if unfinished is not None or settled is None:
            continue
        if frozen_at is None or settled == frozen_at[one]:
            opening[one] = (evidence, settled + 1)
    if opening:
        await replays.insert_runs(conn, opening, actor, reason)
    return {one: run for one, (_, run) in opening.items()}, runs


async def _tell(
    conn: Conn, tracking_id: UUID, run: int, evidence: Replayable, actor: str, reason: str
) -> UUID:
    """The action's record; its id."""
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
    return action_id
