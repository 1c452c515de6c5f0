"""
What happened: the audit trail as a feed, `/api/v1/events`.

Forwards, by pages, by waiting for what is new, or as a stream; by cursors that neither skip a
record nor show one twice, whoever commits meanwhile. A record is shown to a tenant as far as it
says nothing of anybody else.
"""

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from starlette.responses import Response

from gateway.api.feed_items import FeedItem, shown
from gateway.api.followers import Reading
from gateway.api.operations import Call, Nothing, Operation, Paged, Shown, no_such
from gateway.api.streams import (
    KEEP_ALIVE,
    MEDIA_TYPE,
    EventStream,
    block,
    bookmark,
    retry,
    unless_gone,
)
from gateway.envelope import Refusal
from shared.domain.events import LONGEST_ID_BYTES, is_storable
from shared.store.feed import BEGINNING, Position, Wanted
from shared.store.paging import encode_cursor

_LONGEST_WAIT_S = 60
_MOST_TYPES = 20
#: A stream that has nothing to say says so, and looks for itself whether that is true.
_QUIET_S = 15.0
_BLOCKS = 100
_RETRY_MS = 2000

_encode = msgspec.json.Encoder().encode

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_ID_BYTES)]
Types = Annotated[str, msgspec.Meta(pattern=r"^[^,*]+\*?(,[^,*]+\*?)*$")]
Actor = Annotated[str, msgspec.Meta(pattern=r"^[^*]+\*?$", max_length=LONGEST_ID_BYTES)]
Moment = Annotated[
    str,
    msgspec.Meta(
        description="RFC 3339, with its offset", extra_json_schema={"format": "date-time"}
    ),
]


class Events(Paged, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """
    What is wanted of the feed, and how.

    `type` and `actor` may end with `*`; of types there may be several, with commas between them.
    `since` and `until` ask for the time that a record bears, and are no positions.
    """

    tenant: Text | None = None
    type: Types | None = None
    source: Text | None = None
    actor: Actor | None = None
    since: Moment | None = None
    until: Moment | None = None
    begin: Literal["beginning", "latest"] | None = msgspec.field(name="from", default=None)
    wait: Annotated[str, msgspec.Meta(pattern="^[0-9]{1,4}s?$")] | None = None

    @property
    def wait_s(self) -> int:
        """How long to wait where there is nothing, in seconds."""
        return 0 if self.wait is None else int(self.wait.removesuffix("s"))


async def read_events(call: Call[Events, Nothing]) -> Shown | Response:
    """
    What happened, in one order for all who ask.

    A page always has a cursor to go on from; `hasMore` says whether to do so at once. With `wait`
    an empty page is answered only after that time. With `Accept: text/event-stream` the answer is
    a stream of server-sent events, whose ids are cursors: `Last-Event-ID` goes on behind one.
    """
    _check_query(call.query)
    wanted = _wanted(call)
    # A HEAD has no body, and would never end.
    is_stream = MEDIA_TYPE in call.request.headers.get("accept", "") and (
        call.request.method == "GET"
    )
    cursor, begin = call.query.cursor, call.query.begin
    if is_stream:
        if call.query.wait is not None:
            raise _wrong("wait: a stream waits by itself")
        # A client that is cut off asks again for the address that it was given at first.
        cursor = call.request.headers.get("last-event-id") or cursor
    after = call.after("events", cursor, _position)
    if after is None:
        after = await call.api.followers.newest() if begin == "latest" else BEGINNING
    salt = await call.api.followers.salt()
    if is_stream:
        # Here, where it can still be refused.
        call.api.followers.admit(call.token.id)
        return EventStream(_stream(call, wanted, after, salt))
    if call.query.wait_s and call.request.method == "GET":
        reading = await unless_gone(_await(call, wanted, after), call.request.receive)
    else:
        reading = await call.api.followers.read(wanted, after, call.query.limit)
    if reading is None:
        return Response(status_code=204)  # to nobody
    stretch = reading.stretch
    more = {
        "limit": call.query.limit,
        "next": _cursor(call, stretch.end),
        "hasMore": stretch.is_behind,
    }
    is_tenants = call.tenant is not None
    items = [shown(one, salt, is_tenants=is_tenants) for one in stretch.records]
    # Kept by a browser, it would be taken for the latest once more.
    return Shown(items, meta=more, headers={"Cache-Control": "no-store"})


def _check_query(query: Events) -> None:
    """
    Refuse what would be taken for something else than was meant.

    Raises:
        Refusal: naming the parameter.
    """
    types = [] if query.type is None else query.type.split(",")
    if len(types) > _MOST_TYPES:
        raise _wrong(f"type: {_MOST_TYPES} at most")
    for name, texts in (("type", types), ("actor", [query.actor])):
        # Nothing is left of an empty one but "all", which nobody has said.
        if not all(text is None or is_storable(text.removesuffix("*")) for text in texts):
            raise _wrong(f"{name}: is empty, too long or holds a NUL")
    for name, text in (("tenant", query.tenant), ("source", query.source)):
        if text is not None and not is_storable(text):
            raise _wrong(f"{name}: is too long or holds a NUL")
    if query.begin is not None and query.cursor is not None:
        raise _wrong("from: a cursor says already where to begin")
    if query.wait_s > _LONGEST_WAIT_S:
        raise _wrong(f"wait: {_LONGEST_WAIT_S}s at most")


def _wrong(message: str) -> Refusal:
    return Refusal("malformed_request", message)


async def _await(call: Call[Events, Nothing], wanted: Wanted, after: Position) -> Reading:
    """What is there, or the first that comes within the time that was given."""
    followers, clock = call.api.followers, asyncio.get_running_loop().time
    until = clock() + call.query.wait_s
    followers.admit(call.token.id)
    with followers.following(call.token.id, wanted.tenant) as follower:
        reading = await followers.read(wanted, after, call.query.limit)
        while not reading.stretch.records and not follower.is_ended and clock() < until:
            after = reading.stretch.end
            if not reading.stretch.is_behind:
                await follower.wait(min(until - clock(), _QUIET_S))
            follower.begin_reading()
            reading = await followers.read_shared(wanted, after, call.query.limit)
    return reading


async def _stream(
    call: Call[Events, Nothing], wanted: Wanted, after: Position, salt: bytes
) -> AsyncGenerator[bytes]:
    """Blocks of what comes, until the token ends, the process does, or the database is away."""
    followers, clock = call.api.followers, asyncio.get_running_loop().time
    # Before anything has come, too: who is cut off now must not begin anew from the latest.
    yield retry(_RETRY_MS) + bookmark(_cursor(call, after))
    said, said_at = after, clock()
    with followers.following(call.token.id, wanted.tenant) as follower:
        while not follower.is_ended:
            follower.begin_reading()
            try:
                reading = await followers.read_shared(wanted, after, _BLOCKS)
            except Refusal:
                return  # who comes again is told why
            after = reading.stretch.end
            chunk = b""
            if reading.stretch.records:
                chunk, said = _blocks(call, reading, salt), reading.stretch.records[-1].place
            elif clock() - said_at >= _QUIET_S:
                # What did not fit need not be looked at again by who comes back.
                chunk = KEEP_ALIVE if said == after else bookmark(_cursor(call, after))
                said = after
            if chunk:
                yield chunk
                said_at = clock()
            if not reading.stretch.is_behind:
                await follower.wait(max(0.0, said_at + _QUIET_S - clock()))


def _blocks(call: Call[Events, Nothing], reading: Reading, salt: bytes) -> bytes:
    """The records of a reading as a stream has them, made once for all who share it."""
    is_tenants = call.tenant is not None
    name = "tenant" if is_tenants else "all"
    if name not in reading.made:
        reading.made[name] = b"".join(
            block(
                _cursor(call, one.place),
                one.action,
                _encode(shown(one, salt, is_tenants=is_tenants)),
            )
            for one in reading.stretch.records
        )
    return reading.made[name]


def _wanted(call: Call[Events, Nothing]) -> Wanted:
    query = call.query
    if query.tenant is not None and not call.may_see(query.tenant):
        raise no_such("tenant")
    return Wanted(
        tenant=query.tenant if call.tenant is None else call.tenant,
        types=None if query.type is None else tuple(map(_pattern, query.type.split(","))),
        source=query.source,
        actors=_actors(query.actor, is_tenants=call.tenant is not None),
        since=_moment_of("since", query.since),
        until=_moment_of("until", query.until),
    )


def _actors(actor: str | None, *, is_tenants: bool) -> tuple[str, ...] | None:
    if actor is None:
        return None
    if is_tenants and actor.startswith("operator:"):
        # Which operator it was is not shown, and must not be found by asking.
        raise _wrong("actor: say operator, whoever it was")
    if is_tenants and actor == "operator":
        return ("operator:%",)
    return (_pattern(actor),)


def _pattern(text: str) -> str:
    """What LIKE takes for it: as it is, or whatever begins with it."""
    begins = text.removesuffix("*")
    literal = begins.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
    return literal if begins == text else literal + "%"


def _moment_of(name: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = msgspec.convert(text, datetime)
        if moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except (msgspec.ValidationError, OverflowError):
        pass
    raise _wrong(f"{name}: is no time of RFC 3339 with its offset (a + is written %2B)")


def _position(xid: str, number: str) -> Position:
    position = Position(int(xid), int(number))
    if not (0 <= position.xid < 2**64 and 0 <= position.id < 2**63):
        raise ValueError("no position")
    return position


def _cursor(call: Call[Any, Any], position: Position) -> str:
    # All of one length: how long the numbers are would say how much there is.
    return call.hide("events", encode_cursor(f"{position.xid:020d}", f"{position.id:020d}"))


OPERATIONS = (
    Operation(
        "GET",
        "/api/v1/events",
        read_events,
        "What happened",
        FeedItem,
        query=Events,
        is_list=True,
        errors=("not_found", "overloaded", "too_many_requests"),
        media_types=(MEDIA_TYPE,),
    ),
)
