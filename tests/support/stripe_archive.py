"""
The same server with an archive: the events that were made, and lists of subscriptions.

Events come as the API gives them: rendered in the account's own version, of no endpoint, and
without saying whose they are. What an endpoint would have been sent is `sent`.
"""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support.stripe_api import StripeServer, serving
from tests.support.world import Merchant

#: Stripe keeps events for so long.
KEPT_S = 30 * 86400


@dataclass
class StripeArchive(StripeServer):
    """`events` of each account in the order in which they were made."""

    events: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    version: str | None = None  # of the account; None: as the events have it

    def made(self, *bodies: bytes, account: str = "") -> None:
        """These events happened, whether anybody is told of them or not."""
        for body in bodies:
            content = json.loads(body)
            content.pop("account", None)
            content["pending_webhooks"] = 0
            if self.version is not None:
                content["api_version"] = self.version
            self.events.setdefault(account, []).append(content)

    def holds(self, merchant: Merchant, account: str = "") -> None:
        """The merchant's objects, as they are now."""
        for one in (*merchant.has.customers, *merchant.has.subscriptions):
            self.put(one.shape(merchant.generation), account)

    def _list(self, path: str, query: dict[str, str], account: str) -> dict[str, Any] | None:
        if path == "/v1/events":
            return self._after(self._events(query, account), query, path)
        if path == "/v1/subscriptions":
            return self._after(self._subscriptions(query, account), query, path)
        return super()._list(path, query, account)

    def _events(self, query: Mapping[str, str], account: str) -> list[dict[str, Any]]:
        types = {value for name, value in query.items() if name.startswith("types")}
        assert 0 < len(types) <= 20
        since, until = int(query["created[gte]"]), int(query["created[lte]"])
        since = max(since, int(self.clock()) - KEPT_S)
        found = [
            one
            for one in self.events.get(account, [])
            if one["type"] in types and since <= one["created"] <= until
        ]
        # The newest first; within a second in no order that anybody promises.
        return sorted(found, key=lambda one: (-one["created"], one["id"]))

    def _subscriptions(self, query: Mapping[str, str], account: str) -> list[dict[str, Any]]:
        found = [
            one
            for (of, kind, _), one in self.objects.items()
            if of == account and kind == "subscription"
        ]
        if query.get("status") != "all":
            found = [one for one in found if one["status"] != "canceled"]
        if "created[lt]" in query:
            found = [one for one in found if one["created"] < int(query["created[lt]"])]
        found.sort(key=lambda one: (-one["created"], one["id"]))
        if "data.customer" in query.values():
            found = [
                {**one, "customer": self.objects.get((account, "customer", one["customer"]),
                                                     one["customer"])}
                for one in found
            ]  # fmt: skip
        return found

    def _after(
        self, found: list[dict[str, Any]], query: Mapping[str, str], path: str
    ) -> dict[str, Any]:
        if "starting_after" in query:
            ids = [one["id"] for one in found]
            found = found[ids.index(query["starting_after"]) + 1 :]
        return self._page(found, int(query.get("limit", 10)), path)


@asynccontextmanager
async def stripe_archive() -> AsyncIterator[StripeArchive]:
    """A server on a free port of this machine, in this event loop."""
    async with serving(StripeArchive()) as api:
        yield api
