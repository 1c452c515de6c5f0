"""A tenant's objects as an explanation reads them, without a database."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from shared.domain import explaining
from shared.domain.catalog import Catalog, Origin
from shared.domain.commands import Shape
from shared.domain.entitlements import grant_by_hand
from shared.domain.explanation import EventRead, Explanation, Facts, Given, OperatorLink
from shared.domain.keys import CustomerKey, ObjectKey
from shared.domain.payments import Policy
from shared.domain.prose import text_of
from shared.domain.reasons import Sight
from shared.domain.register import Observation, fold
from shared.domain.situations import Neighbour, Neighbourhood
from shared.domain.standings import has_versions
from shared.domain.states import Item, ObjectState, digest_of
from shared.domain.turns import HeldGrant

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
NOW_S = int(NOW.timestamp())
DAY_S = 86_400
CUSTOMER = CustomerKey(1, "", True, "cus_1")
#: Providers; the place is the id of the source, named like its provider but for the sender's.
_PROVIDERS = ("", "stripe", "polar", "clerk", "hmac")
_NAMES = {"hmac": "acme"}
_WITH_CUSTOMER = {"subscription", "checkout.session", "invoice", "charge"}


def catalog(*, adds: bool = False, version: int = 7, **plans: dict[str, Any]) -> Catalog:
    """`pro` with 10 seats and sso, `team` with 20 seats and no grace, and others."""
    document = {
        "pro": {"features": {"seats": 10, "sso": True}},
        "team": {"features": {"seats": 20}, "graceS": 0},
        "pack": {"features": {"seats": 3}, "lastsS": 30 * DAY_S},
        "chat": {"features": {"chat": True}},
        **plans,
    }
    for name, plan in document.items():
        plan.setdefault("products", [f"stripe:prod_{name}"])
    features = {"seats": {"combine": "sum"}} if adds else {}
    return Catalog.read(version, {"plans": document, "features": features})


@dataclass
class Told:
    """Objects of customer cus_1, seen some time before `NOW`, and what is made of them."""

    catalog: Catalog = field(default_factory=catalog)
    policy: Policy = field(default_factory=Policy)
    is_removed: bool = False
    sights: dict[ObjectKey, list[Sight]] = field(default_factory=dict)
    links: dict[CustomerKey, OperatorLink] = field(default_factory=dict)
    given: list[Given] = field(default_factory=list)

    def see(
        self,
        name: str,
        days_ago: float,
        status: str,
        *products: str,
        shape: Shape = "point",
        livemode: bool = True,
        provider: str = "stripe",
        **more: Any,
    ) -> None:
        """An event of the provider's source observes an object; evt_1 is the first one."""
        kind, object_id = name.split("/")
        if kind in _WITH_CUSTOMER:
            more.setdefault("customer", "cus_1")
        if kind == "subscription":
            more.setdefault("tenant", "acme")
        items = tuple(Item((f"price_{one}", f"prod_{one}")) for one in products)
        state = ObjectState(status, items=items, **more)
        number = 1 + sum(map(len, self.sights.values()))
        at = (NOW_S - int(days_ago * DAY_S)) * (1_000_000 if has_versions(provider) else 1)
        digest = digest_of(state)
        seen = Observation(f"evt_{number}", at, shape, None, digest, state)
        key = ObjectKey(_PROVIDERS.index(provider), "", livemode, kind, object_id)
        self.sights.setdefault(key, []).append(Sight(UUID(int=number), seen))

    def give(self, value: Any, until: datetime | None = None, **more: Any) -> None:
        """Operator ana gives seats by hand, three days ago."""
        gift = Given(
            object_row=1000 + len(self.given),
            feature="seats",
            value=value,
            valid_until=until,
            actor="operator:ana",
            reason="pilot extension",
            granted_at=NOW - timedelta(days=3),
            revoked_at=None,
        )
        self.given.append(msgspec.structs.replace(gift, **more))

    def facts(self, feature: str = "seats", **more: Any) -> Facts:
        """What is read where all of it was decided and written; `more` replaces some of it."""
        origin = Origin("", "", is_removed=self.is_removed, policy=self.policy)
        neighbours = [
            Neighbour(
                number, key, None, fold(_PROVIDERS[key[0]], key.kind, [one[1] for one in sights])
            )
            for number, (key, sights) in enumerate(self.sights.items(), start=1)
        ]
        situations = Neighbourhood(neighbours).decide(
            {key: link.tenant for key, link in self.links.items()},
            lambda key: replace(
                origin,
                source=_NAMES.get(_PROVIDERS[key[0]], _PROVIDERS[key[0]]),
                provider=_PROVIDERS[key[0]],
                is_of_mode=key.livemode,
            ),
            self.catalog,
        )
        held = [
            HeldGrant(one.neighbour.id, grant, None)
            for one in situations.values()
            for grant in one.verdict.grants
            if one.tenant == "acme"
        ]
        held += [self._held(one) for one in self.given if not one.revoked_at]
        facts = Facts(
            tenant="acme",
            feature=feature,
            at=NOW,
            tense="now",
            mode="live",
            catalog=self.catalog,
            newest_catalog=self.catalog.version,
            held=held,
            situations=situations,
            given=[one for one in self.given if one.feature == feature],
            operator_links=self.links,
            sights=self.sights,
            events={one[0]: _event(one) for sights in self.sights.values() for one in sights},
        )
        return msgspec.structs.replace(facts, **more)

    def explain(self, feature: str = "seats", **more: Any) -> Explanation:
        return explaining.explain(self.facts(feature, **more))

    def text(self, feature: str = "seats", **more: Any) -> str:
        """The prose without its last two paragraphs: the events, and the audit trail's record."""
        blocks = text_of(self.explain(feature, **more)).split("\n\n")
        return "\n\n".join(block for block in blocks[:-1] if not block.startswith("Behind this"))

    def _held(self, gift: Given) -> HeldGrant:
        grant = grant_by_hand("acme", gift.feature, gift.value, gift.valid_until, self.catalog)
        return HeldGrant(gift.object_row, grant, None)


def _event(sight: Sight) -> EventRead:
    return EventRead(
        tracking_id=sight.tracking_id,
        received_at=NOW - timedelta(hours=1),
        event_id=sight.observation.id,
        type="customer.subscription.updated",
        outcome="applied",
    )
