"""
What an operation of the API is: one row says everything that serving and documenting it needs.

A handler is given a `Call`, typed and checked, and returns a `Shown`. The types that it is declared
with are those that requests are read into, answers are made of and `/openapi.json` describes.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.checking import Checks
from gateway.api.followers import Followers
from gateway.api.reader import reading
from gateway.api.tokens import Tokens
from gateway.door import Visit
from gateway.envelope import Refusal
from gateway.idempotency import REPLAYED
from gateway.limiting import Limits
from gateway.orders import Orders, Placed
from gateway.readiness import Readiness
from gateway.sources import Sources
from shared import telemetry
from shared.artifacts import Artifacts
from shared.db import Conn, Database
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

#: A source is nobody's token: it proves who it is as in what it sends, where `admit` says so.
Who = Literal["operator", "service", "tenant", "source"]

#: Everybody who has a token; those who see all tenants; those who may change things.
ANYBODY: frozenset[Who] = frozenset({"operator", "service", "tenant"})
SERVICES: frozenset[Who] = frozenset({"operator", "service"})
OPERATORS: frozenset[Who] = frozenset({"operator"})

_CURSOR_CHARS = 64


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

    limit: Annotated[int, msgspec.Meta(ge=1, le=LARGEST_LIMIT)] = DEFAULT_LIMIT
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Api:
    """What operations are made of; whoever opened it closes it."""

    reader: Database
    keys: KeyRing
    sources: Sources
    orders: Orders
    artifacts: Artifacts
    followers: Followers
    checks: Checks
    tokens: Tokens
    limits: Limits
    readiness: Readiness | None = None
    public_url: str | None = None  # what the gateway is reached by from outside


@dataclass(frozen=True, slots=True)
class Shown:
    """
    An answer: `data` goes into the envelope, `meta` beside the trace id.

    `headers` are more than the usual. `said` is what the ETag is made of, where that is less than
    `data`.
    """

    data: Any
    status: int = 200
    meta: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    said: Any = None


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
            hidden = self.api.keys.reveal(text, self._cursors(name))
            return decode_cursor(hidden.decode().rstrip(), read)
        except (SealingError, CursorError):
            raise Refusal("malformed_request", "cursor: not a cursor of this list") from None

    def hide(self, name: str, cursor: str) -> str:
        """A cursor of the list `name`, as it may be given away."""
        # Padded: how long a number is, is nobody's to know either.
        padded = cursor.ljust(-(-len(cursor) // _CURSOR_CHARS) * _CURSOR_CHARS)
        return self.api.keys.hide(padded.encode(), self._cursors(name))

    def page(self, name: str, found: Page, limit: int) -> Shown:
        """
        A page of the list `name`.

        Its cursor is hidden: how many rows others have is nobody's to know.
        """
        after = None if found.next is None else self.hide(name, found.next)
        more = {"limit": limit, "next": after, "hasMore": after is not None}
        return Shown(found.items, meta=more)

    def _cursors(self, name: str) -> str:
        """What cursors of the list are good for: another tenant's are none of this one's."""
        return f"cursor/{name}" if self.tenant is None else f"cursor/{name}/of/{self.tenant}"


def order_url(placed: Placed, status_url: str | None = None) -> str:
    """Where to see what became of an order."""
    return (status_url or "/api/v1/orders/{id}").replace("{id}", str(placed.tracking_id))


def accepted(placed: Placed, data: Any, headers: Mapping[str, str] | None = None) -> Shown:
    """The answer to an order that is stored."""
    more = {**(headers or {}), **(REPLAYED if placed.is_repeated else {})}
    return Shown(data, status=202, headers=more)


#: What every operation that places an order may be refused with, beside the usual.
ORDER_ERRORS = ("key_in_flight", "key_reused", "not_configured", "overloaded", "store_unavailable")


def no_such(what: str) -> Refusal:
    """Nothing there, or nothing that this token may see: the same answer."""
    return Refusal("not_found", f"There is no such {what}.")


Act = Callable[[Call[Any, Any]], Awaitable[Shown | Response]]
#: Who else may ask than who has a token; None: that request has to have one.
Admit = Callable[[Api, Request], Awaitable[Token | None]]


@dataclass(frozen=True, slots=True)
class Operation:
    """
    `GET /api/v1/tenants/{tenant}/entitlements`, say.

    `answer` is the type of `data`; of a list, `is_list`, that of its elements. `media_types` are
    what it answers with instead of the envelope. `errors` are the codes it answers with beside
    those that every operation has. `sealed` path parameters are ids that we make of others, and so
    may be longer than those. `asks`: a POST that changes nothing, and is answered with an ETag like
    a GET.
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
    sealed: frozenset[str] = frozenset()
    tag: str = ""
    asks: bool = False
    admit: Admit | None = None

    @property
    def name(self) -> str:
        """Unique: the handler's."""
        return self.act.__name__

    @property
    def only_reads(self) -> bool:
        """Whether its answer may be had again by its ETag."""
        return self.method == "GET" or self.asks
