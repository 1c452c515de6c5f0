"""
A small Polar: an organization that things happen to, the events that it would send of them, and
its API over real HTTP. What is not delivered from what an act returns was dropped.
"""

import itertools
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from shared.domain.events import Headers
from tests.support.stripe_api import StripeServer, serving

#: Long ago, so that whatever is asked now contains all that happened.
BEGINNING = datetime.now(UTC).replace(microsecond=0) - timedelta(days=2)

_ids = itertools.count(1)


@dataclass(frozen=True)
class Sent:
    """An event as Polar sends it."""

    body: bytes
    headers: Headers


@dataclass
class PolarServer(StripeServer):
    """Polar's API. Every act takes a second of its clock and returns the events of it."""

    keys: dict[str, bool] = field(default_factory=lambda: {"polar_oat_1": True})
    customers: dict[str, dict[str, Any]] = field(default_factory=dict)
    subscriptions: dict[str, dict[str, Any]] = field(default_factory=dict)
    grants: dict[str, dict[str, Any]] = field(default_factory=dict)
    orders: dict[str, dict[str, Any]] = field(default_factory=dict)
    stale: dict[str, dict[str, Any]] = field(default_factory=dict)  # states out of a cache
    now: datetime = BEGINNING

    def tell_own_time(self) -> None:
        """From now on `Date` is of its clock, and no longer of this machine's."""

        def clock() -> float:
            return self.now.timestamp()

        self.clock = clock

    # What happens -------------------------------------------------------------------------------

    def sign_up(self, number: str, tenant: str | None = None) -> list[Sent]:
        """A customer, whom the shop knows as `tenant`."""
        self.customers[number] = {
            "id": number, "created_at": self._tick(), "modified_at": None, "metadata": {},
            "external_id": tenant, "email": f"{number}@example.com", "type": "individual",
            "deleted_at": None, "organization_id": "org_1",
        }  # fmt: skip
        return [self.event("customer.created", self.customers[number]), self._state_event(number)]

    def subscribe(self, customer: str, number: str, product: str = "prod_pro") -> list[Sent]:
        """A subscription that is active from now on, and the benefit that it brings."""
        at = self._tick()
        self.subscriptions[number] = {
            "id": number, "created_at": at, "modified_at": None, "status": "active",
            "customer_id": customer, "product_id": product, "metadata": {}, "amount": 1000,
            "currency": "usd", "recurring_interval": "month", "started_at": at, "ends_at": None,
            "current_period_start": at, "current_period_end": self.after(days=30),
            "cancel_at_period_end": False, "canceled_at": None, "past_due_at": None,
            "seats": None, "units": None, "trial_start": None, "trial_end": None,
            "pause_at_period_end": False,
        }  # fmt: skip
        self.grants[f"grant_{number}"] = {
            "id": f"grant_{number}", "created_at": at, "modified_at": None, "granted_at": at,
            "is_granted": True, "is_revoked": False, "customer_id": customer,
            "benefit_id": f"benefit_of_{product}", "subscription_id": number, "properties": {},
        }  # fmt: skip
        return [
            self._subscription_event("subscription.created", number),
            self.event("benefit_grant.created", self.grants[f"grant_{number}"]),
            self._state_event(customer),
        ]

    def revoke(self, number: str) -> list[Sent]:
        """The subscription's end, and that of what it brought."""
        grant = self.grants[f"grant_{number}"]
        grant |= {"is_granted": False, "is_revoked": True, "modified_at": self._tick()}
        self._change(number, status="canceled", ended_at=self._tick())
        return [
            self._subscription_event("subscription.revoked", number),
            self.event("benefit_grant.revoked", grant),
            self._state_event(self.subscriptions[number]["customer_id"]),
        ]

    def cancel(self, number: str) -> list[Sent]:
        """The subscription is to end with its period."""
        end = self.subscriptions[number]["current_period_end"]
        self._change(number, cancel_at_period_end=True, ends_at=end)
        return [self._subscription_event("subscription.canceled", number)]

    def uncancel(self, number: str) -> list[Sent]:
        """And after all it is not."""
        self._change(number, cancel_at_period_end=False, ends_at=None)
        return [self._subscription_event("subscription.uncanceled", number)]

    def fail_payment(self, number: str) -> list[Sent]:
        """The subscription is past due, which no state lists."""
        self._change(number, status="past_due", past_due_at=self._tick())
        return [self._subscription_event("subscription.past_due", number)]

    def delete(self, customer: str) -> list[Sent]:
        """A customer goes, and all subscriptions with them."""
        sent = []
        for number, one in list(self.subscriptions.items()):
            if one["customer_id"] == customer and one["status"] != "canceled":
                sent += self.revoke(number)
        self.customers[customer] |= {"deleted_at": self._tick(), "modified_at": self._tick()}
        return [*sent, self.event("customer.deleted", self.customers[customer])]

    def cache_state(self, customer: str) -> None:
        """From now on the state of a customer is what it is now, whatever happens."""
        self.stale[customer] = json.loads(json.dumps(self.state(customer)))

    # What it sends ------------------------------------------------------------------------------

    def event(self, event_type: str, data: Mapping[str, Any]) -> Sent:
        """An event with the whole object in it, as it is now."""
        body = json.dumps({"type": event_type, "timestamp": self._tick(), "data": data})
        return Sent(body.encode(), (("webhook-id", f"msg_{next(_ids)}"),))

    def state(self, customer: str) -> dict[str, Any]:
        """A customer with all that is active."""
        left_out = {"customer_id", "pause_at_period_end", "past_due_at", "ended_at"}
        return {
            **self.customers[customer],
            "active_subscriptions": [
                {name: value for name, value in one.items() if name not in left_out}
                for one in self.subscriptions.values()
                if one["customer_id"] == customer and one["status"] in ("active", "trialing")
            ],
            "granted_benefits": [
                {name: one[name] for name in
                 ("id", "created_at", "modified_at", "granted_at", "benefit_id", "properties")}
                for one in self.grants.values()
                if one["customer_id"] == customer and one["is_granted"]
            ],
            "active_meters": [],
        }  # fmt: skip

    def after(self, **time: float) -> str:
        """So long after now, as Polar writes times."""
        return iso(self.now + timedelta(**time))

    def _state_event(self, customer: str) -> Sent:
        return self.event("customer.state_changed", self.state(customer))

    def _subscription_event(self, event_type: str, number: str) -> Sent:
        one = self.subscriptions[number]
        return self.event(event_type, {**one, "customer": self.customers[one["customer_id"]]})

    def _change(self, number: str, **fields: Any) -> None:
        self.subscriptions[number] |= fields | {"modified_at": self._tick()}

    def _tick(self) -> str:
        self.now += timedelta(seconds=1)
        return iso(self.now)

    # The API ------------------------------------------------------------------------------------

    def _look_up(
        self, path: str, query: dict[str, str], account: str, key: str
    ) -> tuple[int, dict[str, Any]]:
        if key not in self.keys:
            return 401, {"error": "invalid_token", "error_description": "It is not valid."}
        head, _, rest = path.removeprefix("/v1/").partition("/")
        if head == "customers":
            return self._customer(rest, query)
        if head == "benefit-grants" and not rest:
            mine = [
                one
                for one in self.grants.values()
                if one["customer_id"] == query.get("customer_id")
            ]
            return 200, _page(mine, query)
        objects = {"subscriptions": self.subscriptions, "orders": self.orders}.get(head, {})
        if rest not in objects:
            return 404, _NOT_FOUND
        one = objects[rest]
        return 200, {**one, "customer": self.customers[one["customer_id"]]}

    def _customer(self, rest: str, query: dict[str, str]) -> tuple[int, dict[str, Any]]:
        there = {number: one for number, one in self.customers.items() if not one["deleted_at"]}
        if not rest:
            newest_last = query.get("sorting", "-created_at") == "created_at"
            listed = sorted(
                there.values(), key=lambda one: str(one["created_at"]), reverse=not newest_last
            )
            return 200, _page(listed, query)
        number, _, what = rest.partition("/")
        if number not in there or what not in ("", "state"):
            return 404, _NOT_FOUND
        if what == "state":
            return 200, self.stale.get(number) or self.state(number)
        return 200, there[number]


_NOT_FOUND = {"error": "ResourceNotFound", "detail": "Not found"}


def iso(moment: datetime) -> str:
    """As Polar writes times."""
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _page(found: list[dict[str, Any]], query: Mapping[str, str]) -> dict[str, Any]:
    limit, number = int(query.get("limit", 10)), int(query.get("page", 1))
    return {
        "items": found[(number - 1) * limit : number * limit],
        "pagination": {"total_count": len(found), "max_page": -(-len(found) // limit)},
    }


@asynccontextmanager
async def polar_api() -> AsyncIterator[PolarServer]:
    """A server on a free port of this machine, in this event loop."""
    async with serving(PolarServer()) as api:
        yield api
