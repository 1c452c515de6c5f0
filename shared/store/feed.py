"""
Reading the audit trail as a feed: forwards, from a position, nothing skipped and nothing twice.

In the order of (xid, id), and only below the oldest transaction that is still open: nothing can
commit there any more (as `shared.store.handlers` reads, ADR 31). A position is always that of a
record which was there to be read: the number of a transaction that wrote nothing durable may be
given out once more after a crash, and a position behind such a number would skip what its next
owner writes (ADR 40).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from shared.db import Conn, Row

#: How to connect for these statements: a bitmap would be sorted whole, for each page of it.
IN_ORDER = {
    "enable_bitmapscan": "off",
    "enable_seqscan": "off",
    "plan_cache_mode": "force_custom_plan",
}

#: Records that one look at what is new takes in; where there are more, everybody is behind.
LOOK_AT = 1000


class Position(NamedTuple):
    """Behind which record a reader is. Of two, the larger is the later one."""

    xid: int
    id: int


BEGINNING = Position(0, 0)
END = Position(2**64 - 1, 2**63 - 1)


@dataclass(frozen=True, slots=True)
class Wanted:
    """
    Which records. `types` and `actors` are patterns of LIKE, of which one has to fit; `tenant` may
    be another name of one. `since` is included, `until` is not. None: any.
    """

    tenant: str | None = None
    types: tuple[str, ...] | None = None
    source: str | None = None
    actors: tuple[str, ...] | None = None
    since: datetime | None = None
    until: datetime | None = None

    @property
    def is_filtered(self) -> bool:
        """Whether records of the trail, or of the tenant, are left out."""
        return any((self.types, self.source, self.actors, self.since, self.until))


@dataclass(frozen=True, slots=True)
class FeedRecord:
    """
    An audit record. `position` is its place in the tenant's own chain, None where it is in another
    one. `before` and `after` are JSON, {"bytes"} of one that has more than 8 KiB; what was there
    once and is erased `is_erased`.
    """

    place: Position
    cause: str
    cause_id: str
    run: int
    tenant: str
    step: int
    action: str
    actor: str
    source: str
    subject: str
    feature: str
    catalog_version: int
    at: datetime
    position: int | None
    before: bytes | None
    after: bytes | None
    reason: bytes | None
    is_erased: bool


@dataclass(frozen=True, slots=True)
class Stretch:
    """
    A piece of the trail: what fits of it, and where it ends, behind all that was looked at.

    `is_behind`: more can be read at once.
    """

    records: Sequence[FeedRecord]
    end: Position
    is_behind: bool


@dataclass(frozen=True, slots=True)
class News:
    """
    What came behind a position: up to where, and under which names tenants may ask for it.

    `tenants` is None where it was too much to say. `held_s` is the age of the oldest record that is
    there and cannot be read yet, 0 where there is none.
    """

    end: Position
    tenants: frozenset[str] | None
    held_s: float


# Of a content that is large, an import's manifest, it is said how large it is.
_WITH_CONTENTS = """
SELECT l.xid::text AS last_xid, l.id AS last_id, n.xid::text AS newest_xid, n.id AS newest_id,
       f.xid::text AS xid, f.id, f.cause, f.cause_id, f.run, f.tenant, f.step, f.action, f.actor,
       f.source, f.subject, f.feature, f.catalog_version, f.at,
       CASE WHEN f.tenant <> '' AND f.chain = 'tenant:' || f.tenant THEN f.position END AS position,
       CASE WHEN octet_length(c.before) > 8192
            THEN convert_to(json_build_object('bytes', octet_length(c.before))::text, 'UTF8')
            ELSE c.before END AS before,
       CASE WHEN octet_length(c.after) > 8192
            THEN convert_to(json_build_object('bytes', octet_length(c.after))::text, 'UTF8')
            ELSE c.after END AS after,
       c.reason,
       f.had AND num_nonnulls(c.before, c.after) = 0 AS is_erased
FROM last AS l
CROSS JOIN newest AS n
LEFT JOIN found AS f ON true
LEFT JOIN audit_content AS c ON c.audit_id = f.id
ORDER BY f.xid, f.id
"""
# `newest` is the last record that can be read, `last` the last one to be looked at this time: the
# look-up of a record far ahead reads nothing but the index. One statement, so one snapshot.
READ = """
WITH newest AS MATERIALIZED (
    SELECT a.xid, a.id FROM audit AS a
    WHERE (a.xid, a.id) > ($1::text::xid8, $2::bigint)
      AND (a.xid, a.id) <= ($3::text::xid8, $4::bigint)
      AND a.xid < pg_snapshot_xmin(pg_current_snapshot())
    ORDER BY a.xid DESC, a.id DESC
    LIMIT 1
), last AS MATERIALIZED (
    SELECT e.xid, e.id
    FROM (
        (SELECT a.xid, a.id FROM audit AS a
         WHERE (a.xid, a.id) > ($1::text::xid8, $2::bigint)
           AND (a.xid, a.id) <= ($3::text::xid8, $4::bigint)
           AND a.xid < pg_snapshot_xmin(pg_current_snapshot())
         ORDER BY a.xid, a.id
         OFFSET $5::bigint - 1 LIMIT 1)
        UNION ALL
        SELECT n.xid, n.id FROM newest AS n
    ) AS e
    ORDER BY e.xid, e.id
    LIMIT 1
), found AS MATERIALIZED (
    SELECT a.xid, a.id, a.cause, a.cause_id, a.run, a.tenant, a.step, a.action, a.actor, a.source,
           a.subject, a.feature, a.catalog_version, a.at, a.chain, a.position,
           num_nonnulls(a.before_digest, a.after_digest) > 0 AS had
    FROM audit AS a
    WHERE (a.xid, a.id) > ($1::text::xid8, $2::bigint)
      AND (a.xid, a.id) <= ((SELECT xid FROM last), (SELECT id FROM last))
      AND ($7::text[] IS NULL OR a.action LIKE ANY ($7::text[]))
      AND ($8::text IS NULL OR a.source = $8)
      AND ($9::text[] IS NULL OR a.actor LIKE ANY ($9::text[]))
      AND ($10::timestamptz IS NULL OR a.at >= $10)
      AND ($11::timestamptz IS NULL OR a.at < $11)
    ORDER BY a.xid, a.id
    LIMIT $6
)
{with_contents}
""".replace("{with_contents}", _WITH_CONTENTS)

# The same of one tenant under all its names: each name's records lie in order, and of several names
# each brings as many as could be the first ones. The trail's names are not collated as those of
# `tenants` are, and no index serves a comparison in another collation.
READ_OF_TENANT = """
WITH actual AS (
    SELECT coalesce((SELECT merged_into FROM tenants WHERE tenant = $12), $12::text) AS tenant
), names AS MATERIALIZED (
    SELECT tenant COLLATE "default" AS tenant FROM actual
    UNION ALL
    SELECT t.tenant COLLATE "default" FROM tenants AS t JOIN actual AS a ON t.merged_into = a.tenant
), newest AS MATERIALIZED (
    SELECT a.xid, a.id
    FROM names AS n CROSS JOIN LATERAL (
        SELECT a.xid, a.id FROM audit AS a
        WHERE a.tenant = n.tenant
          AND (a.xid, a.id) > ($1::text::xid8, $2::bigint)
          AND (a.xid, a.id) <= ($3::text::xid8, $4::bigint)
          AND a.xid < pg_snapshot_xmin(pg_current_snapshot())
        ORDER BY a.xid DESC, a.id DESC
        LIMIT 1
    ) AS a
    ORDER BY a.xid DESC, a.id DESC
    LIMIT 1
), last AS MATERIALIZED (
    SELECT e.xid, e.id
    FROM (
        (SELECT a.xid, a.id
         FROM names AS n CROSS JOIN LATERAL (
             SELECT a.xid, a.id FROM audit AS a
             WHERE a.tenant = n.tenant
               AND (a.xid, a.id) > ($1::text::xid8, $2::bigint)
               AND (a.xid, a.id) <= ($3::text::xid8, $4::bigint)
               AND a.xid < pg_snapshot_xmin(pg_current_snapshot())
             ORDER BY a.xid, a.id
             LIMIT $5::bigint
         ) AS a
         ORDER BY a.xid, a.id
         OFFSET $5::bigint - 1 LIMIT 1)
        UNION ALL
        SELECT n.xid, n.id FROM newest AS n
    ) AS e
    ORDER BY e.xid, e.id
    LIMIT 1
), found AS MATERIALIZED (
    SELECT a.xid, a.id, a.cause, a.cause_id, a.run, a.tenant, a.step, a.action, a.actor, a.source,
           a.subject, a.feature, a.catalog_version, a.at, a.chain, a.position, a.had
    FROM names AS n CROSS JOIN LATERAL (
        SELECT a.xid, a.id, a.cause, a.cause_id, a.run, a.tenant, a.step, a.action, a.actor,
               a.source, a.subject, a.feature, a.catalog_version, a.at, a.chain, a.position,
               num_nonnulls(a.before_digest, a.after_digest) > 0 AS had
        FROM audit AS a
        WHERE a.tenant = n.tenant
          AND (a.xid, a.id) > ($1::text::xid8, $2::bigint)
          AND (a.xid, a.id) <= ((SELECT xid FROM last), (SELECT id FROM last))
          AND ($7::text[] IS NULL OR a.action LIKE ANY ($7::text[]))
          AND ($8::text IS NULL OR a.source = $8)
          AND ($9::text[] IS NULL OR a.actor LIKE ANY ($9::text[]))
          AND ($10::timestamptz IS NULL OR a.at >= $10)
          AND ($11::timestamptz IS NULL OR a.at < $11)
        ORDER BY a.xid, a.id
        LIMIT $6
    ) AS a
    ORDER BY a.xid, a.id
    LIMIT $6
)
{with_contents}
""".replace("{with_contents}", _WITH_CONTENTS)


async def read_stretch(
    conn: Conn,
    wanted: Wanted,
    after: Position,
    limit: int,
    *,
    look_at: int,
    up_to: Position = END,
) -> Stretch:
    """
    The next records behind `after` that are wanted, `limit` at most, and up to `up_to` at most.

    Where something is left out, `look_at` records are looked at, at most: the stretch may be empty
    and still have brought its reader further. Connect with `IN_ORDER`.
    """
    asked = (
        str(after.xid),
        after.id,
        str(up_to.xid),
        up_to.id,
        look_at if wanted.is_filtered else limit,
        limit,
        None if wanted.types is None else list(wanted.types),
        wanted.source,
        None if wanted.actors is None else list(wanted.actors),
        wanted.since,
        wanted.until,
    )
    if wanted.tenant is None:
        rows = await conn.fetch(READ, *asked)
    else:
        rows = await conn.fetch(READ_OF_TENANT, *asked, wanted.tenant)
    if not rows:
        return Stretch((), after, is_behind=False)
    records = [_record(row) for row in rows if row["xid"] is not None]
    newest = Position(int(rows[0]["newest_xid"]), rows[0]["newest_id"])
    end = Position(int(rows[0]["last_xid"]), rows[0]["last_id"])
    if len(records) == limit:
        end = records[-1].place
    return Stretch(records, end, is_behind=end < newest)


NEWEST = """
SELECT a.xid::text AS xid, a.id FROM audit AS a
WHERE a.xid < pg_snapshot_xmin(pg_current_snapshot())
ORDER BY a.xid DESC, a.id DESC
LIMIT 1
"""


async def newest(conn: Conn) -> Position:
    """Behind the last record that can be read now: whatever commits from now on comes later."""
    row = await conn.fetchrow(NEWEST)
    return BEGINNING if row is None else Position(int(row["xid"]), row["id"])


LOOK = """
WITH fresh AS MATERIALIZED (
    SELECT a.xid, a.id, a.tenant FROM audit AS a
    WHERE (a.xid, a.id) > ($1::text::xid8, $2::bigint)
      AND a.xid < pg_snapshot_xmin(pg_current_snapshot())
    ORDER BY a.xid, a.id
    LIMIT $3
), actual AS MATERIALIZED (
    SELECT DISTINCT coalesce(t.merged_into, f.tenant) AS tenant
    FROM fresh AS f LEFT JOIN tenants AS t ON t.tenant = f.tenant
), names AS (
    SELECT tenant FROM fresh
    UNION
    SELECT tenant FROM actual
    UNION
    SELECT t.tenant FROM tenants AS t JOIN actual AS a ON t.merged_into = a.tenant
)
SELECT (SELECT count(*) FROM fresh) AS count,
       (SELECT xid::text FROM fresh ORDER BY xid DESC, id DESC LIMIT 1) AS xid,
       (SELECT id FROM fresh ORDER BY xid DESC, id DESC LIMIT 1) AS id,
       (SELECT array_agg(tenant) FROM names) AS tenants,
       (SELECT extract(epoch FROM now() - a.at)::float8 FROM audit AS a
        WHERE a.xid >= pg_snapshot_xmin(pg_current_snapshot())
        ORDER BY a.xid, a.id LIMIT 1) AS held_s
"""


async def look(conn: Conn, after: Position) -> News:
    """What can be read behind a position, without reading it."""
    row = await conn.fetchrow(LOOK, str(after.xid), after.id, LOOK_AT)
    assert row is not None  # one row, whatever there is
    held_s = row["held_s"] or 0.0
    if row["count"] == 0:
        return News(after, frozenset(), held_s)
    if row["count"] == LOOK_AT:
        return News(await newest(conn), None, held_s)
    return News(Position(int(row["xid"]), row["id"]), frozenset(row["tenants"]), held_s)


READ_SALT = "SELECT salt FROM feed_salt"


async def read_salt(conn: Conn) -> bytes:
    """What the ids of items are made with: the deployment's own, and never changed."""
    salt: bytes = await conn.fetchval(READ_SALT)
    return salt


def _record(row: Row) -> FeedRecord:
    return FeedRecord(
        place=Position(int(row["xid"]), row["id"]),
        cause=row["cause"],
        cause_id=row["cause_id"],
        run=row["run"],
        tenant=row["tenant"],
        step=row["step"],
        action=row["action"],
        actor=row["actor"],
        source=row["source"],
        subject=row["subject"],
        feature=row["feature"],
        catalog_version=row["catalog_version"],
        at=row["at"],
        position=row["position"],
        before=row["before"],
        after=row["after"],
        reason=row["reason"],
        is_erased=row["is_erased"],
    )
