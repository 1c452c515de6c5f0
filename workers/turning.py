"""
What the clock did to tenants, told to the audit trail by whoever locks them first afterwards.

Under the tenants' locks, and before anything else is decided there: a turn stands in the chain in
front of what comes after it, once, whether the sweep or an event was first.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from shared.db import Conn
from shared.domain.audit import Draft, content_of
from shared.domain.turns import HeldGrant, Turn, turns_of
from shared.store import audit, grants, objects

ACTOR = "system:clock"


async def tell_turns(
    conn: Conn, held: Sequence[HeldGrant], catalog_versions: Mapping[str, int], now: datetime
) -> list[Turn]:
    """
    Audit the turns up to `now` of locked tenants, whose grants `held` are, and mark them told.

    A turn that changed nothing, because another grant gives the same, leaves no record.
    """
    turned = [one for one in held if one.has_turned(now)]
    turns = []
    for tenant in sorted({one.grant.tenant for one in turned}):
        turns += turns_of([one for one in held if one.grant.tenant == tenant], now)
    if turns:
        await _audit(conn, turns, catalog_versions, now)
    if turned:
        await grants.move_turns(conn, turned, now)
    return turns


async def _audit(
    conn: Conn, turns: Sequence[Turn], catalog_versions: Mapping[str, int], now: datetime
) -> None:
    names = await objects.read_names(conn, [turn.held.object_row for turn in turns])
    # Once as a rule. But a grant may be given again with an end that has been told of, by a clock
    # that was set back: that end comes once more.
    runs = await audit.runs_of_ends(conn, [turn.cause_id for turn in turns])
    drafts = []
    for turn in turns:
        grant = turn.held.grant
        number = turn.held.object_row
        # What is no provider's object was given by hand.
        source, subject = names.get(number, ("", f"manual/{number}"))
        drafts.append(
            Draft(
                chain=f"tenant:{grant.tenant}",
                cause="end",
                cause_id=turn.cause_id,
                run=runs.get(turn.cause_id, 0) + 1,
                tenant=grant.tenant,
                step=1,
                action=turn.action,
                actor=ACTOR,
                source=source,
                subject=subject,
                feature=grant.feature,
                catalog_version=catalog_versions[grant.tenant],
                before=content_of(turn.before),
                after=content_of(turn.after),
            )
        )
    _, xid = await audit.moment(conn)
    await audit.append(conn, drafts, now=now, xid=xid)
