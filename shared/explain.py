"""
Explain what a tenant may use of a feature: read everything in one snapshot, and put it together.

Now, it is read from what is stored and decided; for a moment in the past from the audit trail, and
from the observations whose events had been applied by then. Nothing is locked, nothing written.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from shared.belongings import decided, read_belongings
from shared.db import Conn
from shared.domain import explaining
from shared.domain.audit import actor_for_tenant
from shared.domain.catalog import Catalog
from shared.domain.entitlements import grant_by_hand
from shared.domain.explanation import Explanation, Facts, Given, OperatorLink, Recorded, Tense
from shared.domain.keys import CustomerKey, ObjectKey
from shared.domain.moments import MomentError, moment_before, read_moment, written
from shared.domain.prose import text_of
from shared.domain.reasons import Sight
from shared.domain.register import Observation, Register, fold
from shared.domain.situations import Neighbour, Situation
from shared.domain.turns import HeldGrant
from shared.domain.verdicts import Aliases
from shared.store import explanations, grants, merges, observations
from shared.store.objects import StoredObject
from shared.store.source_rows import SourceRow, read_mode, read_sources
from shared.store.tenants import find_tenant

__all__ = ["MomentError", "explain"]


class Explained(Explanation, frozen=True, rename="camel", kw_only=True):
    """
    An explanation with its prose. `merged_from` is the name that was asked for, where another
    tenant has it.
    """

    merged_from: str | None
    text: str


async def explain(
    conn: Conn, tenant: str, feature: str, at: str | None = None, *, for_tenant: bool = False
) -> dict[str, Any] | None:
    """
    The answer as JSON has it (`Explained`); None for a tenant that nothing ever named. `at` is as
    `read_moment` takes it. One that is `for_tenant` does not say which operator it was, nor why.

    Raises:
        MomentError: `at` names no moment; nothing was read.
    """
    asked = None if at is None else read_moment(at)
    asked_for = tenant
    async with conn.transaction():
        await explanations.begin_snapshot(conn)
        known = await find_tenant(conn, tenant)
        if known is None:
            return None
        now = known.now
        moment = now if asked is None else moment_before(now, asked)
        tense: Tense = "now" if asked is None else "past" if moment <= now else "future"
        if known.merged_into is not None and known.merged_at and known.merged_at <= moment:
            # From then on it is the other's name.
            tenant = known.merged_into
        aliases = await merges.aliases_at(conn, tenant, min(moment, now))
        reading = _Reading(conn, tenant, feature, moment, now, tense, aliases)
        facts = await reading.facts()
    explanation = explaining.explain(_without_operators(facts) if for_tenant else facts)
    shown: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(explanation))
    text = text_of(explanation)
    if asked_for != tenant and known.merged_at is not None:
        text = f"{asked_for} was merged into {tenant} on {written(known.merged_at)}.\n\n{text}"
    return {**shown, "mergedFrom": asked_for if asked_for != tenant else None, "text": text}


def _without_operators(facts: Facts) -> Facts:
    """Their names and notes are not for tenants, here as in the feed."""
    change = msgspec.structs.replace
    record = facts.record
    return change(
        facts,
        given=[
            change(
                one,
                actor=actor_for_tenant(one.actor),
                reason=None,
                revoked_by=one.revoked_by and actor_for_tenant(one.revoked_by),
                revoke_reason=None,
            )
            for one in facts.given
        ],
        operator_links={
            key: change(link, actor=link.actor and actor_for_tenant(link.actor))
            for key, link in facts.operator_links.items()
        },
        record=record and change(record, actor=actor_for_tenant(record.actor)),
    )


@dataclass
class _Reading:
    conn: Conn
    tenant: str
    feature: str
    at: datetime
    now: datetime
    tense: Tense
    aliases: Aliases

    @property
    def until(self) -> datetime:
        """What happened later is not looked at."""
        return min(self.at, self.now)

    async def facts(self) -> Facts:
        """Everything, in the order in which one thing tells what else is needed."""
        conn = self.conn
        record = await self._record()
        links = await explanations.read_linked_to(conn, [self.tenant, *self.aliases])
        rows = await self._rows(links)
        links |= await explanations.read_links_of(conn, {row.owner for row in rows if row.owner})
        if self.tense == "past":
            facts = await self._as_it_was(rows, links, record)
        else:
            facts = await self._as_it_is(rows, links, record)
        wanted = explaining.evidence(facts)
        events = await explanations.read_events(conn, wanted, self.until)
        return msgspec.structs.replace(facts, events=events)

    async def _record(self) -> Recorded | None:
        record = await explanations.read_record(self.conn, self.tenant, self.feature, self.until)
        if record is None or record.cause != "event":
            return record
        events = await explanations.read_events(self.conn, [UUID(record.cause_id)], self.until)
        return msgspec.structs.replace(
            record, event_id=next((event.event_id for event in events.values()), None)
        )

    async def _rows(self, linked: Collection[CustomerKey]) -> list[StoredObject]:
        """The tenant's objects, and all that bear on them: their customers', what joins them."""
        touched: tuple[list[ObjectKey], list[CustomerKey]] = ([], [])
        if self.tense == "past":
            # Whosever they are now, they may have been the tenant's then.
            touched = await explanations.read_touched(
                self.conn, self.tenant, self.feature, self.until
            )
        return await read_belongings(self.conn, self.tenant, {*linked, *touched[1]}, touched[0])

    async def _as_it_is(
        self,
        rows: Sequence[StoredObject],
        links: Mapping[CustomerKey, OperatorLink],
        record: Recorded | None,
    ) -> Facts:
        conn = self.conn
        standing = await explanations.read_standing(conn, self.tenant)
        _, mode = await read_mode(conn)
        sources = {row.id: row for row in await read_sources(conn)}
        catalog = await self._catalog(standing.catalog_version)
        neighbours = [Neighbour(row.id, row.key, row.owner, row.register) for row in rows]
        facts = Facts(
            tenant=self.tenant,
            feature=self.feature,
            at=self.at,
            tense=self.tense,
            mode=mode,
            catalog=catalog,
            newest_catalog=standing.newest_catalog,
            held=await grants.read_grants(conn, [self.tenant]),
            given=await self._given(),
            situations=decided(neighbours, links, sources, mode, catalog, self.aliases),
            operator_links=links,
            record=record,
        )
        # Read only of what the answer speaks of: a customer may have years of invoices.
        rows_of = {key: facts.situations[key].neighbour.id for key in explaining.bearing(facts)}
        seen = await observations.read_observations(conn, list(rows_of.values()))
        sights = {key: _sights(seen.get(row, {})) for key, row in rows_of.items()}
        return msgspec.structs.replace(facts, sights=sights)

    async def _as_it_was(
        self,
        rows: Sequence[StoredObject],
        links: Mapping[CustomerKey, OperatorLink],
        record: Recorded | None,
    ) -> Facts:
        conn = self.conn
        configured = await explanations.read_configured(conn, self.at)
        mode = configured.mode or (await read_mode(conn))[1]
        sources = {
            row.id: replace(row, is_removed=row.id in configured.removed)
            for row in await read_sources(conn)
        }
        links = await self._links_then(links, sources)
        sights = await self._sights_then(rows)
        neighbours = [
            # To whom it belonged is in what was known of it.
            Neighbour(row.id, row.key, None, _register(row, sights[row.key], sources))
            for row in rows
            if sights[row.key]
        ]
        given = await self._given()
        knew = await explanations.was_recorded(conn, self.tenant, self.at)
        # That of the record may be the one before: a new one is applied to a tenant within seconds.
        told = None if record is None else record.catalog_version
        facts: list[Facts] = []
        versions = dict.fromkeys(
            one for one in (configured.catalog_version, told) if one is not None
        )
        for version in versions or (0,):
            catalog = await self._catalog(version)
            situations = decided(neighbours, links, sources, mode, catalog, self.aliases)
            facts.append(
                Facts(
                    tenant=self.tenant,
                    feature=self.feature,
                    at=self.at,
                    tense=self.tense,
                    mode=mode,
                    catalog=catalog,
                    newest_catalog=version,
                    held=_held(situations.values(), self.tenant, given, catalog),
                    given=given,
                    situations=situations,
                    operator_links=links,
                    record=record,
                    knew=knew,
                    sights=sights,
                )
            )
        agreeing = (one for one in facts if "disagrees" not in explaining.explain(one).notes)
        return next(agreeing, facts[0])

    async def _given(self) -> list[Given]:
        return await explanations.read_given(
            self.conn, [self.tenant, *self.aliases], self.feature, self.until
        )

    async def _catalog(self, version: int) -> Catalog:
        return Catalog.read(version, await grants.read_catalog(self.conn, version))

    async def _links_then(
        self, links: Mapping[CustomerKey, OperatorLink], sources: Mapping[int, SourceRow]
    ) -> dict[CustomerKey, OperatorLink]:
        """The operators' links as they were: what was linked later was linked otherwise before."""
        later = {key for key, link in links.items() if link.at is not None and link.at > self.at}
        if not later:
            return dict(links)
        tenants = {self.tenant, *(links[key].tenant for key in later)} - {None}
        moved = await explanations.read_moved_later(self.conn, filter(None, tenants), self.at)
        then = {
            key: OperatorLink(moved.get((sources[key.source_id].name, key.customer)), None, None)
            for key in later
        }
        return {**links, **then}

    async def _sights_then(self, rows: Sequence[StoredObject]) -> dict[ObjectKey, list[Sight]]:
        """What had been observed by then: all whose events had been applied."""
        seen = await observations.read_observations(self.conn, [row.id for row in rows])
        sights = {row.key: _sights(seen.get(row.id, {})) for row in rows}
        ids = {sight.tracking_id for known in sights.values() for sight in known}
        settled = await explanations.settled_by(self.conn, ids, self.at)
        return {
            key: [sight for sight in known if sight.tracking_id in settled]
            for key, known in sights.items()
        }


def _sights(seen: Mapping[str, tuple[UUID, Observation]]) -> list[Sight]:
    return [Sight(tracking_id, observation) for tracking_id, observation in seen.values()]


def _register(
    row: StoredObject, sights: Iterable[Sight], sources: Mapping[int, SourceRow]
) -> Register:
    provider = sources[row.key.source_id].provider
    return fold(provider, row.key.kind, (sight.observation for sight in sights))


def _held(
    situations: Iterable[Situation], tenant: str, given: Iterable[Given], catalog: Catalog
) -> list[HeldGrant]:
    """What the tenant held: what was decided about objects, and what operators gave."""
    held = [
        HeldGrant(one.neighbour.id, grant, None)
        for one in situations
        if one.tenant == tenant
        for grant in one.verdict.grants
    ]
    for one in given:
        if one.revoked_at is None:
            grant = grant_by_hand(tenant, one.feature, one.value, one.valid_until, catalog)
            held.append(HeldGrant(one.object_row, grant, None))
    return held
