"""
The events of the story, as Stripe shapes them (API version 2025-03-31.basil).

Ids are new in every run. Times lie some minutes back, so that the story's own clock can stand
still or move on as a scene needs it.
"""

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shared.domain.events import lane_number

_BEGINS_BACK_S = 600
_MONTH_S = 30 * 86_400


@dataclass(frozen=True, slots=True)
class Event:
    """One event. `note` says in a word or two what it is about."""

    id: str
    type: str
    created: int
    livemode: bool
    content: Mapping[str, Any]
    previous: Mapping[str, Any] | None = None
    note: str = ""

    def body(self, *, pending_webhooks: int = 1) -> bytes:
        """What is signed and sent; Stripe counts `pending_webhooks` down between deliveries."""
        data: dict[str, Any] = {"object": self.content}
        if self.previous is not None:
            data["previous_attributes"] = self.previous
        document = {
            "id": self.id,
            "object": "event",
            "api_version": "2025-03-31.basil",
            "created": self.created,
            "data": data,
            "livemode": self.livemode,
            "pending_webhooks": pending_webhooks,
            "request": {"id": None, "idempotency_key": None},
            "type": self.type,
        }
        return json.dumps(document, indent=2).encode()


class Script:
    """The ids and the clock of one run."""

    def __init__(self, *, livemode: bool) -> None:
        self.livemode = livemode
        self.run = secrets.token_hex(3)
        self.now_s = int(time.time()) - _BEGINS_BACK_S
        self._events = 0
        self._lanes: set[int] = set()

    def tenant(self, name: str) -> str:
        """The id of a tenant of this run."""
        return f"demo-{name}-{self.run}"

    def customer_id(self) -> str:
        """A customer that nobody has seen."""
        return f"cus_demo_{secrets.token_hex(6)}"

    def subscription_id(self) -> str:
        """A subscription that nobody has seen, in a lane of its own: none delays another."""
        while True:
            number = f"sub_demo_{secrets.token_hex(6)}"
            lane = lane_number(f"subscription/{number}")
            if lane not in self._lanes:
                self._lanes.add(lane)
                return number

    def later(self) -> None:
        """Let the story's clock move on by a second."""
        self.now_s += 1

    def event(
        self,
        kind: str,
        content: Mapping[str, Any],
        *,
        previous: Mapping[str, Any] | None = None,
        note: str = "",
    ) -> Event:
        """An event of this second. Later ones have larger ids."""
        self._events += 1
        number = f"evt_demo_{self.run}_{self._events:03d}{secrets.token_hex(4)}"
        return Event(number, kind, self.now_s, self.livemode, content, previous, note)


@dataclass
class Customer:
    """A customer at the provider, and its one subscription."""

    script: Script
    tenant: str
    id: str

    def created(self) -> Event:
        """It exists, and says whose it is."""
        return self.script.event("customer.created", self._content(self.tenant), note="new")

    def linked(self) -> Event:
        """It did not say whose it is; now it does."""
        return self.script.event(
            "customer.updated",
            self._content(self.tenant),
            previous={"metadata": {"tenant_id": None}},
            note="now linked",
        )

    def _content(self, tenant: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "customer",
            "created": self.script.now_s,
            "email": "demo@example.com",
            "livemode": self.script.livemode,
            "metadata": {"tenant_id": tenant},
        }


class Subscription:
    """A subscription as it stands at the provider; every change returns the event that tells it."""

    def __init__(self, customer: Customer, plan: str, status: str, *, names_tenant: bool) -> None:
        self.customer = customer
        self.plan = plan
        self._script = customer.script
        self._status = status
        self._names_tenant = names_tenant
        self._started_s = self._script.now_s
        self.id = self._script.subscription_id()

    def created(self) -> Event:
        """It exists."""
        return self._event("created", note=self.plan if self._status == "active" else self._status)

    def becomes(self, *, plan: str | None = None, status: str | None = None) -> Event:
        """Another plan or another status."""
        before = self._content()
        previous: dict[str, Any] = {}
        notes = []
        if plan is not None:
            previous["items"] = before["items"]
            notes.append(f"{self.plan} → {plan}")
            self.plan = plan
        if status is not None:
            previous["status"] = before["status"]
            notes.append(status)
            self._status = status
        return self._event("updated", previous=previous, note=", ".join(notes))

    def ended(self, note: str) -> Event:
        """It is over, at once."""
        self._status = "canceled"
        return self._event("deleted", note=note)

    def _event(self, change: str, *, note: str, previous: Mapping[str, Any] | None = None) -> Event:
        kind = f"customer.subscription.{change}"
        return self._script.event(kind, self._content(), previous=previous, note=note)

    def _content(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "subscription",
            "cancel_at": None,
            "cancel_at_period_end": False,
            "collection_method": "charge_automatically",
            "created": self._started_s,
            "currency": "eur",
            "customer": self.customer.id,
            "items": {
                "object": "list",
                "data": [
                    {
                        "id": f"si_{self.id}",
                        "object": "subscription_item",
                        "current_period_end": self._started_s + _MONTH_S,
                        "current_period_start": self._started_s,
                        "price": {
                            "id": f"price_demo_{self.plan}",
                            "object": "price",
                            "product": f"prod_demo_{self.plan}",
                        },
                        "quantity": 1,
                    }
                ],
                "has_more": False,
                "total_count": 1,
            },
            "livemode": self._script.livemode,
            "metadata": {"tenant_id": self.customer.tenant} if self._names_tenant else {},
            "start_date": self._started_s,
            "status": self._status,
        }
