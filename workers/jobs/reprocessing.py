"""
The kind "reprocess": records are read again by today's mapping, chunk by chunk.

What that changes is told in the job's own chain, one manifest for each chunk and tenant: no tenant
is locked, and a million records do not make a million links.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby

import msgspec

from shared.db import Conn, storable
from shared.domain.jobs import Reprocess, UnfitError, read_arguments
from shared.store import jobs, rereading
from shared.store.jobs import Failure, Job, Progress
from workers.entries import Told
from workers.handlers.rereading import Reread, read_again
from workers.jobs import manifests
from workers.jobs.kinds import JobFailed, Tools

CHUNK = 100
#: How many records are looked at for those that are asked for.
WINDOW = 5000
#: After so many deaths at one record, it stays as it is.
DEATHS_OF_ONE = 4
#: Why records stay as they are is kept of so many.
MOST_FAILURES = 1000

#: Of a chunk: what its records were and are, in one record of the trail.
MANIFEST = "records.reprocessed"


class Reprocessing:
    """`cursor`: {"after", "until": numbers of records, "before": of the configuration, "step"}."""

    def __init__(self, tools: Tools, asked: Reprocess) -> None:
        self._tools = tools
        self._asked = asked
        self._ids: list[int] = []
        #: What was found and is not read yet, and up to where was looked for it.
        self._ahead: list[int] = []
        self._looked = self._until = self._before = 0

    async def prepare(self, job: Job) -> None:
        """See `Work`: find the next records."""
        if not self._ahead:
            await self._look(job)
        self._ids = self._ahead[: _chunk_of(job)]

    async def _look(self, job: Job) -> None:
        crew, cursor = self._tools.crew, job.cursor
        async with crew.db.connection() as conn:
            # What is first heard of from now on is read by today's mapping.
            until = cursor.get("until")
            self._until = await rereading.last_record(conn) if until is None else until
            self._before = cursor.get("before", crew.surroundings.version)
            found = await rereading.scan_records(
                conn,
                cursor.get("after", 0),
                self._until,
                WINDOW,
                job.source_id,
                only_waiting=self._asked.select == "waiting",
                mapped_before=self._before if self._asked.select == "outdated" else None,
            )
        self._ahead = [record for record, is_wanted in found if is_wanted]
        self._looked = found[-1][0] if found else self._until

    async def step(self, conn: Conn, job: Job) -> Progress:
        """See `Work`."""
        skip = job.deaths >= DEATHS_OF_ONE
        done = await read_again(conn, self._tools.crew.surroundings, self._ids, skip=skip)
        told = _by_tenant(done)
        step = await manifests.append(
            conn, job, told, family="job", action=MANIFEST, source=self._source(job)
        )
        changed = sum(1 for told in done.told.values() if told)
        kept = {record: why for record, why in done.kept.items() if not done.told.get(record)}
        counts = dict(job.counts)
        for name, amount in (("changed", changed), ("kept", len(kept)),
                             ("same", len(done.keys) - changed - len(kept))):  # fmt: skip
            counts[name] = counts.get(name, 0) + amount
        await jobs.add_failures(conn, job.id, job.run, _failures(job, self._ids, done, set(kept)))
        self._ahead = self._ahead[len(self._ids) :]
        after = self._ids[-1] if self._ahead else self._looked
        cursor = {
            "after": after,
            "until": self._until,
            "before": self._before,
            "step": step,
        }
        is_finished = after >= self._until
        return Progress(
            cursor=cursor,
            done=job.done + len(self._ids),
            failed=job.failed + len(kept),
            counts=counts,
            is_finished=is_finished,
            result={"mappedBy": self._tools.crew.surroundings.version} if is_finished else None,
        )

    async def close(self) -> None:
        """See `Work`: nothing is open."""

    def _source(self, job: Job) -> str:
        return "" if job.source_id is None else self._tools.crew.surroundings.name_of(job.source_id)


async def begin(tools: Tools, job: Job) -> Reprocessing:
    """See `Begin`."""
    try:
        asked = read_arguments(job.kind, job.arguments, job.tenant, None)
    except UnfitError as error:
        raise JobFailed(error.code, f"{error.pointer}: {error}") from None
    assert isinstance(asked, Reprocess)
    return Reprocessing(tools, asked)


def _chunk_of(job: Job) -> int:
    return max(1, CHUNK >> (4 * job.deaths))


def _by_tenant(done: Reread) -> Iterator[tuple[str, bytes]]:
    """(tenant, manifest) of the chunk."""
    told = sorted((one for some in done.told.values() for one in some), key=_order)
    for tenant, group in groupby(told, key=lambda one: one.tenant):
        yield tenant, _encode([_shown(one) for one in group])


_encode = msgspec.json.Encoder(order="deterministic").encode


def _order(told: Told) -> tuple[str, str]:
    return told.tenant, told.subject


def _shown(told: Told) -> dict[str, object]:
    """{"record", "action", "before", "after"}: what the record held of the tenant's."""
    before, after = (None if one is None else msgspec.Raw(one) for one in (told.before, told.after))
    return {
        "record": told.subject.removeprefix("record/"),
        "action": told.action,
        "before": before,
        "after": after,
    }


def _failures(job: Job, ids: Sequence[int], done: Reread, kept: set[int]) -> list[Failure]:
    failures: list[Failure] = []
    for offset, record in enumerate(ids, start=1):
        if record in kept and job.failed + len(failures) < MOST_FAILURES:
            why = done.kept[record]
            text = storable(f"{done.keys[record].name}: {why}")
            failures.append(Failure(job.done + offset, 1, why.code, "", text))
    return failures
