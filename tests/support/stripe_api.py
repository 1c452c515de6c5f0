"""
A server that answers like Stripe's API: objects, lists in pages, accounts, keys, and faults.

It speaks HTTP/1.1 itself, so that it can also speak it badly: without a Date, half a body, nothing.
"""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

PATHS = {
    "/v1/subscriptions/": "subscription",
    "/v1/checkout/sessions/": "checkout.session",
    "/v1/customers/": "customer",
    "/v1/invoices/": "invoice",
    "/v1/invoice_payments/": "invoice_payment",
    "/v1/charges/": "charge",
    "/v1/refunds/": "refund",
    "/v1/disputes/": "dispute",
    "/v1/radar/early_fraud_warnings/": "radar.early_fraud_warning",
}


@dataclass
class Fault:
    """What happens instead of, or before, an answer. `times` is how often; None: for ever."""

    status: int = 0  # 0: the answer itself
    delay_s: float = 0.0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None  # instead of an error as Stripe words it
    cut_after: int | None = None  # bytes of the body, then the connection is reset
    drip_s: float = 0.0  # between one byte of the body and the next
    hang: bool = False  # never answers
    times: int | None = None
    path: str = ""  # only where the path begins like this

    def takes(self, path: str) -> bool:
        return self.times != 0 and path.startswith(self.path)


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    at: float  # monotonic
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    account: str
    key: str


@dataclass
class StripeServer:
    """
    Objects by (account, kind, id); `lists` by (account, path), each with its query's filter in the
    items. `keys` maps an API key to the mode it is of.
    """

    url: str = ""
    keys: dict[str, bool] = field(default_factory=lambda: {"sk_live_1": True})
    accounts: set[str] = field(default_factory=lambda: {"", "acct_1"})
    objects: dict[tuple[str, str, str], dict[str, Any]] = field(default_factory=dict)
    lists: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    embedded: int = 10  # how many of a list come with its object
    clock: Callable[[], float] = time.time  # what Date says
    has_date: bool = True
    at_once: int = 0
    most_at_once: int = 0
    per_object: dict[str, int] = field(default_factory=dict)  # path → on their way
    doubled: list[str] = field(default_factory=list)  # paths asked for twice at once

    def put(self, content: dict[str, Any], account: str = "") -> None:
        """Add or replace an object."""
        self.objects[account, content["object"], content["id"]] = content

    def fail(self, **fault: Any) -> Fault:
        """Add a fault; the first that fits a request is what happens to it."""
        self.faults.append(Fault(**fault))
        return self.faults[-1]

    # HTTP ---------------------------------------------------------------------------------------

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                line, *fields = head.decode().split("\r\n")
                headers = {
                    name.lower(): value
                    for name, _, value in (one.partition(": ") for one in fields if one)
                }
                if not await self._answer(line.split(" ")[1], headers, writer):
                    break
        writer.close()

    async def _answer(
        self, target: str, headers: Mapping[str, str], writer: asyncio.StreamWriter
    ) -> bool:
        """Whether the connection can be used again."""
        parts = urlsplit(target)
        key = headers.get("authorization", "").removeprefix("Bearer ")
        account = headers.get("stripe-account", "")
        query = dict(parse_qsl(parts.query))
        self.asked.append(Asked(time.monotonic(), parts.path, query, headers, account, key))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.per_object[target] = self.per_object.get(target, 0) + 1
        if self.per_object[target] > 1:
            self.doubled.append(target)
        try:
            return await self._act(parts.path, query, account, key, writer)
        finally:
            self.at_once -= 1
            self.per_object[target] -= 1

    async def _act(
        self,
        path: str,
        query: dict[str, str],
        account: str,
        key: str,
        writer: asyncio.StreamWriter,
    ) -> bool:
        fault = next((one for one in self.faults if one.takes(path)), None) or Fault()
        if fault.times is not None:
            fault.times -= 1
        if fault.hang:
            await asyncio.Event().wait()
        # As Stripe's: what is read is read when the request comes.
        status, content = self._look_up(path, query, account, key)
        if fault.status:
            status, content = fault.status, error("Something went wrong.", "api_error")
        body = json.dumps(content).encode() if fault.body is None else fault.body
        await asyncio.sleep(fault.delay_s)
        lines = [
            f"HTTP/1.1 {status} Answer",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            f"Request-Id: req_{len(self.asked)}",
            "Stripe-Version: 2026-10-28.endive",
            *(f"{name}: {value}" for name, value in fault.headers.items()),
        ]
        if self.has_date:
            lines.append(f"Date: {formatdate(self.clock(), usegmt=True)}")
        if account:
            lines.append(f"Stripe-Account: {account}")
        writer.write("\r\n".join([*lines, "", ""]).encode())
        if fault.cut_after is not None:
            writer.write(body[: fault.cut_after])
            await writer.drain()
            writer.transport.abort()
            return False
        for first in range(0, len(body), step := 1 if fault.drip_s else len(body)):
            writer.write(body[first : first + step])
            await writer.drain()
            await asyncio.sleep(fault.drip_s)
        return True

    # The API ------------------------------------------------------------------------------------

    def _look_up(
        self, path: str, query: dict[str, str], account: str, key: str
    ) -> tuple[int, dict[str, Any]]:
        if key not in self.keys:
            return 401, error(f"Invalid API Key provided: {key[:7]}*****{key[-4:]}")
        if account not in self.accounts:
            text = f"The provided key 'sk_*****' does not have access to account '{account}'"
            return 403, error(text, code="account_invalid")
        if (listed := self._list(path, query, account)) is not None:
            return 200, listed
        for prefix, kind in PATHS.items():
            if path.startswith(prefix):
                return self._object(account, kind, path.removeprefix(prefix), query, key)
        return 404, error(f"Unrecognized request URL (GET: {path}).")

    def _object(
        self, account: str, kind: str, number: str, query: dict[str, str], key: str
    ) -> tuple[int, dict[str, Any]]:
        found = self.objects.get((account, kind, number))
        if found is None or found.get("livemode", True) != self.keys[key]:
            return 404, error(f"No such {kind}: '{number}'", code="resource_missing")
        if kind == "subscription":
            lines = self.lists.get((account, "/v1/subscription_items"))
            if lines is not None:
                mine = [one for one in lines if one["subscription"] == number]
                found = {**found, "items": self._page(mine, self.embedded, "/v1/x")}
        if kind == "checkout.session" and "line_items" in query.values():
            path = f"/v1/checkout/sessions/{number}/line_items"
            lines = self.lists.get((account, path), [])
            found = {**found, "line_items": self._page(lines, self.embedded, path)}
        return 200, found

    def _list(self, path: str, query: dict[str, str], account: str) -> dict[str, Any] | None:
        if path == "/v1/entitlements/active_entitlements":
            found = [
                one
                for one in self.lists.get((account, path), [])
                if one["customer"] == query["customer"]
            ]
        elif (account, path) in self.lists:
            found = self.lists[account, path]
            if "subscription" in query:
                found = [one for one in found if one["subscription"] == query["subscription"]]
        else:
            return None
        if "starting_after" in query:
            after = query["starting_after"]
            found = list(itertools.dropwhile(lambda one: one["id"] != after, found))[1:]
        return self._page(found, int(query.get("limit", 10)), path)

    def _page(self, found: list[dict[str, Any]], limit: int, path: str) -> dict[str, Any]:
        return {
            "object": "list",
            "data": found[:limit],
            "has_more": len(found) > limit,
            "url": path,
        }


Server = TypeVar("Server", bound=StripeServer)


def error(message: str, kind: str = "invalid_request_error", **more: Any) -> dict[str, Any]:
    """An error in Stripe's words."""
    return {"error": {"message": message, "type": kind, **more}}


@asynccontextmanager
async def stripe_api() -> AsyncIterator[StripeServer]:
    """A server on a free port of this machine, in this event loop."""
    async with serving(StripeServer()) as api:
        yield api


@asynccontextmanager
async def serving(api: Server) -> AsyncIterator[Server]:
    """The same, of what is given."""
    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        task.add_done_callback(connections.discard)
        with suppress(asyncio.CancelledError):  # the end of the test; asyncio would print it
            await api.serve(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    api.url = f"http://{host}:{port}"
    try:
        yield api
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
