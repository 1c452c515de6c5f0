"""The beginning of an erasure: what an operator ends at once, in one transaction."""

from collections.abc import Sequence

from shared.db import Conn

MARK_ERASED = """
UPDATE tenants SET erased_at = coalesce(erased_at, now()) WHERE tenant = ANY($1::text[])
"""


async def mark(conn: Conn, names: Sequence[str]) -> None:
    """From the commit on nothing resolves to them. All are locked."""
    await conn.execute(MARK_ERASED, list(names))


REVOKE_TOKENS = """
UPDATE tokens SET revoked_at = now()
WHERE revoked_at IS NULL AND scope = ANY(SELECT 'tenant:' || n FROM unnest($1::text[]) AS n)
"""


async def revoke_tokens(conn: Conn, names: Sequence[str]) -> None:
    """Nobody reads as the tenant any more."""
    await conn.execute(REVOKE_TOKENS, list(names))


REVOKE_GIFTS = """
UPDATE manual_grants
SET revoked_at = now(), revoked_by = $2, revoke_reason = 'the tenant was erased'
WHERE tenant = ANY($1::text[]) AND revoked_at IS NULL
"""


async def revoke_gifts(conn: Conn, names: Sequence[str], actor: str) -> None:
    """What was given by hand; its grants the caller takes away."""
    await conn.execute(REVOKE_GIFTS, list(names), actor)


CANCEL_JOBS = """
UPDATE jobs SET cancelled_by = $2, due_at = now(), updated_at = now()
WHERE tenant = ANY($1::text[]) AND state IN ('waiting', 'running', 'paused')
  AND cancelled_by IS NULL
"""


async def cancel_jobs(conn: Conn, names: Sequence[str], actor: str) -> None:
    """Its own jobs end before their next step."""
    await conn.execute(CANCEL_JOBS, list(names), actor)


COUNT_WHOLE = """
SELECT (SELECT count(*) FROM objects WHERE tenant = ANY($1::text[])) AS objects,
       (SELECT count(*) FROM customers WHERE tenant = ANY($1::text[])) AS links,
       (SELECT count(*) FROM records WHERE tenant = ANY($1::text[])) AS records,
       (SELECT count(*) FROM jobs WHERE tenant = ANY($1::text[])) AS jobs,
       (SELECT count(*) FROM audit WHERE tenant = ANY($1::text[])) AS "auditRecords"
"""


async def count_whole(conn: Conn, names: Sequence[str]) -> dict[str, int]:
    """What there is of the tenant now, by what it is; its events are counted as they are erased."""
    row = await conn.fetchrow(COUNT_WHOLE, list(names))
    assert row is not None  # a SELECT without FROM has one row
    return dict(row)
