"""
Judge redeliveries: what the gateway stored and may not decide.

Another body under the same event id is a conflict: listed, never applied. Otherwise the provider
only sends again what it has not seen acknowledged: an unfinished event is woken, a dead one gets
a new run, a finished one is left as it is.
"""

import logging
from collections.abc import Sequence

from shared import telemetry
from shared.db import Conn
from shared.store import redeliveries, retention, work
from shared.store.redeliveries import Judgement
from shared.store.work import Redelivery
from workers.surroundings import Surroundings

log = logging.getLogger(__name__)


async def judge(conn: Conn, surroundings: Surroundings, asked: Sequence[Redelivery]) -> None:
    """Judge them all and finish their work, in the transaction that holds their lane."""
    received_at = {one.tracking_id: one.received_at for one in asked}
    judged = await redeliveries.read_judgements(
        conn, [one.delivery_id for one in asked], [one.received_at for one in asked]
    )
    conflicts = [one for one in judged if not _is_same_event(surroundings, one)]
    if conflicts:
        await redeliveries.record_conflicts(conn, conflicts)
        for one in conflicts:
            telemetry.conflict_found(surroundings.name_of(one.source_id))
            log.error(
                "another body came under this event's id; it is not applied",
                extra={"tracking_id": str(one.tracking_id), "delivery": one.delivery_id},
            )
    honest = {one.tracking_id: one for one in judged if one not in conflicts}
    unfinished = [one.tracking_id for one in honest.values() if one.unfinished]
    if unfinished:
        await redeliveries.wake(conn, unfinished)
    dead = [one for one in honest.values() if not one.unfinished and one.dead_run is not None]
    if dead:
        await retention.keep_bodies(conn)
        await redeliveries.reopen(
            conn,
            [one.tracking_id for one in dead],
            [received_at[one.tracking_id] for one in dead],
            [one.dead_run or 1 for one in dead],
        )
    await work.finish(conn, [one.work_id for one in asked])


def _is_same_event(surroundings: Surroundings, one: Judgement) -> bool:
    if one.body is None or one.original_body is None:
        return True
    if not one.body or not one.original_body:
        return False  # their digests differ, and what is empty here may lie in the artifact store
    return surroundings.provider(one.source_id).same_event(one.original_body, one.body)
