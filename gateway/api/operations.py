"""
What an operation of the API is: one row says everything that serving and documenting it needs.

A handler is given a `Call`, typed and checked, and returns a `Shown`. The types that it is declared
with are those that requests are read into, answers are made of and `/openapi.json` describes.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway.door import Visit
from gateway.envelope import Refusal
from gateway.idempotency import REPLAYED
from gateway.orders import Orders, Placed
from gateway.readiness import Readiness
from gateway.sources import Sources
from shared import telemetry
from shared.artifacts import Artifacts
from shared.db import Conn, Database, is_platform_fault
from shared.domain.commands import Order
from shared.sealing import KeyRing, SealingError
from shared.store.paging import (
    DEFAULT_LIMIT,
    LARGEST_LIMIT,
    CursorError,
    Page,
    decode_cursor,
)
from shared.store.tokens import Token

Q = TypeVar("Q")
B = TypeVar("B")
Key = TypeVar("Key")

Who = Literal["operator", "service", "tenant"]

#: Everybody who has a token; those who see all tenants; those who may change things.
ANYBODY: frozenset[Who] = frozenset({"operator", "service", "tenant"})
SERVICES: frozenset[Who] = frozenset({"operator", "service"})
OPERATORS: frozenset[Who] = frozenset({"operator"})

_READ_WITHIN_S = 2.0


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Of an operation that has no query parameters, or no body."""


class OrderPlaced(msgspec.Struct, frozen=True, rename="camel"):
    """An order is stored, and a worker will carry it out. `statusUrl` says what became of it."""

    tracking_id: UUID
    status_url: str


#: What may be said for the audit trail.
_LONGEST_REASON = 1000


class Reason(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Why, for the audit trail."""

    reason: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be kept."""
        check_reason(self.reason)


def check_reason(reason: str | None) -> None:
    """
    Raises:
        ValueError: it says nothing, or cannot be written down.
    """
    if reason is None:
        return
    if not reason.strip() or len(reason) > _LONGEST_REASON or "\0" in reason:
        raise ValueError(f"reason: text of 1 to {_LONGEST_REASON} characters")


class Paged(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """The query parameters of every list. Derive from it for a list's own."""

    limit: int = DEFAULT_LIMIT
    cursor: str | None = None

    def __post_init__(self) -> None:
        """Refuse what no list has."""
        if not 1 <= self.limit <= LARGEST_LIMIT:
            raise ValueError(f"limit: must be from 1 to {LARGEST_LIMIT}")


@dataclass(frozen=True, slots=True)
class Api:
    """What operations are made of; whoever opened it closes it."""

    reader: Database
    keys: KeyRing
    sources: Sources
    orders: Orders
    artifacts: Artifacts
    readiness: Readiness | None = None
    public_url: str | None = None  # what the gateway is reached by from outside


@asynccontextmanager
async def reading(reader: Database) -> AsyncGenerator[Conn]:
    """
    A connection of the API's own.

    Raises:
        Refusal: the database is away.
    """
    try:
        async with reader.connection(timeout_s=_READ_WITHIN_S) as conn:
            yield conn
    except Exception as error:
        if is_platform_fault(error):
            raise Refusal("store_unavailable", "The database cannot be read now.") from error
        raise


@dataclass(frozen=True, slots=True)
class Shown:
    """
    An answer: `data` goes into the envelope, `meta` beside the trace id.

    `headers` are more than the usual.
    """

    data: Any
    status: int = 200
    meta: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Call(Generic[Q, B]):
    """
    One request on its way: who asks, and what was said, each in its type. `key` is what
    `Idempotency-Key` says, of a POST.
    """

    api: Api
    token: Token
    path: Mapping[str, str]
    query: Q
    body: B
    request: Request
    trace_id: str
    key: str | None = None

    def reading(self) -> AbstractAsyncContextManager[Conn]:
        """
        A connection that can only read.

        Raises:
            Refusal: the database is away.
        """
        return reading(self.api.reader)

    @property
    def tenant(self) -> str | None:
        """The only tenant that the token is for; None: it sees all."""
        kind, _, tenant = self.token.scope.partition(":")
        return tenant if kind == "tenant" else None

    def may_see(self, tenant: str | None) -> bool:
        """Whether the token covers what is this tenant's, or nobody's."""
        return self.tenant is None or self.tenant == tenant

    async def place(
        self, order: Order, *, reason: str | None = None, asked: bytes | None = None
    ) -> Placed:
        """See `Orders.place`; the token's, and under the request's key."""
        visit: Visit = self.request.scope["visit"]
        return await self.api.orders.place(
            self.token,
            order,
            key=self.key,
            trace_context=telemetry.traceparent_of(visit.span),
            reason=reason,
            asked=asked,
        )

    async def order(
        self, order: Order, *, reason: str | None = None, status_url: str | None = None
    ) -> Shown:
        """
        Have a worker carry out an order: 202, and where to see what became of it.

        `status_url` has "{id}" where the tracking id belongs; unless given, it is the order's own.

        Raises:
            Refusal, NotConfigured, StoreUnavailable, Overloaded: see `Orders.place`.
        """
        placed = await self.place(order, reason=reason)
        return accepted(placed, OrderPlaced(placed.tracking_id, order_url(placed, status_url)))

    def after(self, name: str, text: str | None, read: Callable[..., Key]) -> Key | None:
        """
        What `read` makes of the parts of a cursor of the list `name`; None on the first page.

        Raises:
            Refusal: it is none of this list's.
        """
        if text is None:
            return None
        try:
            return decode_cursor(self.api.keys.reveal(text, f"cursor/{name}").decode(), read)
        except (SealingError, CursorError):
            raise Refusal("malformed_request", "cursor: not a cursor of this list") from None

    def page(self, name: str, found: Page, limit: int) -> Shown:
        """
        A page of the list `name`.

        Its cursor is hidden: how many rows others have is nobody's to know.
        """
        after = found.next
        if after is not None:
            after = self.api.keys.hide(after.encode(), f"cursor/{name}")
        more = {"limit": limit, "next": after, "hasMore": after is not None}
        return Shown(found.items, meta=more)


def order_url(placed: Placed, status_url: str | None = None) -> str:
    """Where to see what became of an order."""
    return (status_url or "/api/v1/orders/{id}").replace("{id}", str(placed.tracking_id))


def accepted(placed: Placed, data: Any) -> Shown:
    """The answer to an order that is stored."""
    return Shown(data, status=202, headers=REPLAYED if placed.is_repeated else {})


#: What every operation that places an order may be refused with, beside the usual.
ORDER_ERRORS = ("key_in_flight", "key_reused", "not_configured", "overloaded", "store_unavailable")


def no_such(what: str) -> Refusal:
    """Nothing there, or nothing that this token may see: the same answer."""
    return Refusal("not_found", f"There is no such {what}.")


Act = Callable[[Call[Any, Any]], Awaitable[Shown | Response]]


@dataclass(frozen=True, slots=True)
class Operation:
    """
    `GET /api/v1/tenants/{tenant}/entitlements`, say.

    `answer` is the type of `data`; of a list, `is_list`, that of its elements. `media_types` are
    what it answers with instead of the envelope. `errors` are the codes it answers with beside
    those that every operation has.
    """

    method: Literal["GET", "POST"]
    path: str
    act: Act
    summary: str
    answer: Any
    who: frozenset[Who] = ANYBODY
    query: Any = Nothing
    body: Any = Nothing
    status: int = 200
    is_list: bool = False
    errors: tuple[str, ...] = ()
    media_types: tuple[str, ...] = ()
    tag: str = ""

    @property
    def name(self) -> str:
        """Unique: the handler's."""
        return self.act.__name__
