"""An operator gives a tenant a feature by hand, and takes it back; with the audit records."""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from shared.db import Conn
from shared.domain.audit import Draft
from shared.domain.catalog import Catalog, FeatureValue, kind_of
from shared.domain.entitlements import MANUAL, grant_by_hand
from shared.store import audit, manual_grants, merges
from shared.store.manual_grants import ManualGrant
from shared.store.paging import iso
from workers.actions import encoded, new_action
from workers.entries import FeatureChange
from workers.holdings import Holdings
from workers.settling import changes_to_drafts
from workers.surroundings import Surroundings

_FEATURE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


class UnfitGrant(Exception):
    """It cannot be given: the feature's name, the value's kind, or an end that has passed."""


class UnknownGrant(Exception):
    """The tenant has no grant by hand with this id."""


class RevokedBefore(Exception):
    """Somebody took it back already."""


@dataclass(frozen=True, slots=True)
class Granted:
    """What was given or taken back. `is_known`: the catalog has the feature."""

    action_id: str
    grant: ManualGrant
    changes: tuple[FeatureChange, ...]
    is_known: bool = True

    def shown(self) -> dict[str, Any]:
        """As `--json` has it."""
        return {
            "actionId": self.action_id,
            "tenant": self.grant.tenant,
            **content_of(self.grant),
            "changes": [
                {"tenant": change.tenant, "feature": change.feature, "action": change.action}
                for change in self.changes
            ],
        }


def content_of(grant: ManualGrant) -> dict[str, Any]:
    """What was given, as the audit trail and `--json` have it."""
    return {
        "id": grant.id,
        "feature": grant.feature,
        "value": grant.value,
        "validUntil": iso(grant.valid_until),
    }


async def give(
    conn: Conn,
    tenant: str,
    feature: str,
    value: FeatureValue,
    until: datetime | timedelta | None,
    actor: str,
    reason: str,
) -> Granted:
    """
    Give, and audit it, in the caller's transaction. A tenant that nothing named exists from now on.

    `until` is an aware time, or how long from now by the database's clock; None: until revoked.

    Raises:
        UnfitGrant: nothing was written.
        SetGrew: begin again.
    """
    if not _FEATURE.fullmatch(feature):
        raise UnfitGrant("a feature's name has letters, digits, _ . and - only, at most 63")
    holdings = Holdings()
    name = await holdings.lock_one(conn, tenant)
    catalog = await Surroundings().catalog(conn)
    known = _check_kind(catalog, feature, value)
    ends_at = holdings.now + until if isinstance(until, timedelta) else until
    if ends_at is not None and ends_at <= holdings.now:
        raise UnfitGrant(f"its end, {iso(ends_at)}, has passed")
    given = await manual_grants.add(conn, name, feature, value, ends_at, actor, reason)
    grant = grant_by_hand(name, feature, value, ends_at, catalog)
    changes = holdings.give(given.id, (grant,))
    await holdings.save(conn, catalog.version)
    draft = _draft(given, "grant.given", actor, reason, catalog.version, after=content_of(given))
    await _audit(conn, draft, changes)
    return Granted(draft.cause_id, given, tuple(changes), known)


async def revoke(conn: Conn, tenant: str, number: int, actor: str, reason: str) -> Granted:
    """
    Take a grant back, and audit it, in the caller's transaction.

    Raises:
        UnknownGrant, RevokedBefore: nothing was written.
        SetGrew: begin again.
    """
    await find_grant(conn, tenant, number)
    holdings = Holdings()
    name = await holdings.lock_one(conn, tenant)
    given = await find_grant(conn, tenant, number)
    if given.revoked_at is not None:
        raise RevokedBefore(
            f"grant {number} was revoked by {given.revoked_by} at {iso(given.revoked_at)}"
        )
    await manual_grants.revoke(conn, number, actor, reason)
    changes = holdings.give(number, ())
    version = holdings.tenants[name].catalog_version
    await holdings.save(conn, version)
    draft = _draft(given, "grant.revoked", actor, reason, version, before=content_of(given))
    await _audit(conn, draft, changes)
    return Granted(draft.cause_id, given, tuple(changes))


def _check_kind(catalog: Catalog, feature: str, value: FeatureValue) -> bool:
    """Whether the catalog knows the feature; nothing could decide between two kinds of values."""
    known = catalog.kind_of(feature)
    if known is None:
        return False
    kind, place = known
    if kind_of(value) != kind:
        raise UnfitGrant(f"{feature} is {kind} in {place} of the catalog, not {kind_of(value)}")
    return True


async def find_grant(conn: Conn, tenant: str, number: int) -> ManualGrant:
    """
    A tenant's grant by hand, revoked or not, by any of the tenant's names.

    Raises:
        UnknownGrant: it has none of that id.
    """
    found = await manual_grants.find(conn, number)
    merge = (await merges.read_merges(conn, [tenant])).get(tenant)
    name = tenant if merge is None or merge.into is None else merge.into
    if found is None or found.tenant != name:
        raise UnknownGrant(f"{tenant!r} has no manual grant {number}")
    return found


def _draft(
    given: ManualGrant,
    action: str,
    actor: str,
    reason: str,
    catalog_version: int,
    *,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> Draft:
    action_id = str(new_action())
    return Draft(
        chain=f"operator:{action_id}",
        cause="operator",
        cause_id=action_id,
        run=1,
        tenant=given.tenant,
        step=0,
        action=action,
        actor=actor,
        subject=f"{MANUAL}/{given.id}",
        catalog_version=catalog_version,
        before=None if before is None else encoded(before),
        after=None if after is None else encoded(after),
        reason=reason.encode(),
    )


async def _audit(conn: Conn, draft: Draft, changes: list[FeatureChange]) -> None:
    now, xid = await audit.moment(conn)
    records = [draft, *changes_to_drafts(changes, first_step=1, draft=draft)]
    await audit.append(conn, records, now=now, xid=xid)
