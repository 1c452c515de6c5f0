"""
Manifests: what a job's step changed, told to the trail.

One record for each tenant that a change concerns, in a chain of the job's own, which its row's lock
covers: a million rows neither make a million links nor wait for any tenant.
"""

from collections.abc import Iterable

from shared.db import Conn
from shared.domain.audit import Draft
from shared.store import audit
from shared.store.jobs import Job


async def append(
    conn: Conn,
    job: Job,
    manifests: Iterable[tuple[str, bytes]],
    *,
    family: str,
    action: str,
    source: str,
) -> int:
    """
    Chain the manifests, (tenant, JSON) each, to the job's; `family` is what its chain begins with.

    Returns how many there are so far: the cursor's next "step".
    """
    first: int = job.cursor.get("step", 0)
    drafts = [
        Draft(
            chain=f"{family}:{job.id}",
            cause="event",
            cause_id=str(job.id),
            run=job.run,
            tenant=tenant,
            step=step,
            action=action,
            actor=job.actor,
            source=source,
            subject=f"{family}/{job.id}",
            after=content,
        )
        for step, (tenant, content) in enumerate(manifests, start=first + 1)
    ]
    if drafts:
        now, xid = await audit.moment(conn)
        await audit.append(conn, drafts, now=now, xid=xid)
    return first + len(drafts)
