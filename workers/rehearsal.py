"""
What applying settled events again would change now, found by doing it and taking it back.

    read what they ask for · find on whose ground they meet · piece by piece: lock it all,
    apply, compare what its tenants may use, roll back

Pieces have no customer, joint, tenant or record in common; many small ones share a transaction. The
code is that of a worker (`workers.applying`), only nothing is settled, and so no work is needed.
"""

import asyncio
import random
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from uuid import UUID

from shared.db import is_platform_fault
from shared.domain.commands import Command
from shared.domain.events import received_at_of
from shared.domain.keys import CustomerKey
from shared.store.rehearsals import Settled
from shared.store.selecting import Selected
from workers.crew import Crew
from workers.entries import FeatureChange
from workers.ground import EVENT, Ground, find_tenants, owners_among, sound
from workers.sounding import BODY_EXPIRED, EXTENSION, UNTOUCHING, read_settled
from workers.trial import (
    Ending,
    Found,
    Patience,
    TookTooLong,
    apply_and_take_back,
    is_lost,
)
from workers.watched import CUSTOMER, TENANT, Node, Outgrown

#: Why else an event was not rehearsed, besides what `workers.sounding` says.
UNFINISHED = "unfinished"  # it is applied anyway
TOO_MANY = "too_many"
BUSY = "busy"
#: Why of a tenant not everything is known though its events were rehearsed: the sweep has not
#: brought it to the current catalog yet.
CATALOG_BEHIND = "catalog_behind"

BATCH = 100
MOST_EVENTS = 10_000
#: How long one piece may take in all, whatever it had to begin again for.
MOST_S = 20.0
#: How often a piece gives way before it holds on; and how long it then does. Whoever applies events
#: waits four times as long for a lock before putting them off.
_TRIES = 5
_HOLDS_S = 0.5
_PAUSE_S = 0.1

#: Told how many events have been looked at, and of how many.
Report = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """
    `outcomes` says how each event's next run would end: (outcome, code), or what its first attempt
    would come to: ("retrying", code). `changes` is what that comes to in the end, by tenant and
    feature; of the `tenants` that were looked at, those without a change keep what they have.

    `left_out` says why of some events nothing is known; they would be applied all the same, but for
    those whose body is gone. `missed` are tenants of whom therefore, or since they are behind the
    catalog, not everything is known. `links` are the operators' links of all customers that were
    looked at.
    """

    outcomes: Mapping[UUID, Ending]
    changes: Sequence[FeatureChange]
    tenants: frozenset[str]
    left_out: Mapping[UUID, str]
    missed: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[CustomerKey, str | None] = field(default_factory=dict)


async def rehearse(
    crew: Crew, events: Sequence[Selected], report: Report = lambda done, total: None
) -> Rehearsed:
    """
    What applying these again, in the order of their receipt, would change now.

    Raises:
        Exception: a platform's fault that did not pass.
    """
    rehearsal = Rehearsal(crew, events)
    while await rehearsal.go_on():
        report(rehearsal.done, len(events))
    report(rehearsal.done, len(events))
    return rehearsal.result()


@dataclass(slots=True)
class _Piece:
    """
    Events that are looked at together, and how often that was tried. `places` are theirs, none
    while others are looked at.
    """

    root: int
    size: int
    places: Sequence[int] = ()
    is_alone: bool = False
    tries: int = 0
    spent_s: float = 0.0


class Rehearsal:
    """A rehearsal that goes on step by step; each takes a fraction of a second, as a rule."""

    def __init__(self, crew: Crew, events: Sequence[Selected]) -> None:
        self._crew = crew
        self._left_out: dict[UUID, str] = {}
        # All of a plan's events are held, of each what cannot be asked again. When an event was
        # received is in its id.
        self._ids: list[UUID] = []
        self._runs = array("i")
        for one in sorted(events):
            if one.is_unfinished or one.run is None:
                self._left_out[one.tracking_id] = UNFINISHED
            else:
                self._ids.append(one.tracking_id)
                self._runs.append(one.run)
        self._sounded = 0
        self._ground = Ground(len(self._ids))
        #: How each ends, by its place. Those that are alike are one.
        self._endings: list[Ending | None] = [None] * len(self._ids)
        self._same: dict[Ending, Ending] = {}
        #: Those that already cannot be read.
        self._failing: dict[UUID, Ending] = {}
        #: What some did and do not ask for any more.
        self._takes_back: dict[UUID, frozenset[type[Command]]] = {}
        self._pieces: deque[_Piece] = deque()
        self._is_cut = False
        #: Roots of the pieces that have been looked at, and what else became of some of them.
        self._seen: set[int] = set()
        self._changes: dict[int, list[FeatureChange]] = {}
        self._behind: dict[int, set[str]] = {}
        self._links: dict[CustomerKey, str | None] = {}
        self._faults = 0
        self.done = len(self._left_out)

    async def go_on(self) -> bool:
        """
        Take a step; whether there is another.

        Raises:
            Exception: a platform's fault that did not pass, or what nobody has thought of.
        """
        try:
            is_more = await self._step()
        except Exception as error:
            self._faults += 1
            if not is_platform_fault(error) or self._faults > _TRIES:
                raise
            await _pause(self._faults)
            return True
        self._faults = 0
        return is_more

    def result(self) -> Rehearsed:
        """What was found, once there is no further step."""
        ended = zip(self._ids, self._endings, strict=True)
        outcomes = self._failing | {one: ending for one, ending in ended if ending is not None}
        changes = [change for found in self._changes.values() for change in found]
        changes.sort(key=lambda change: (change.tenant, change.feature))
        tenants = {tenant for root in self._seen for tenant in self._ground.tenants(root)}
        missed = {one: CATALOG_BEHIND for found in self._behind.values() for one in found}
        lacking = {
            self._ground.root((EVENT, place)): why
            for place, one in enumerate(self._ids)
            if (why := self._left_out.get(one)) is not None
        }
        missed |= {
            tenant: why for root, why in lacking.items() for tenant in self._ground.tenants(root)
        }
        return Rehearsed(outcomes, changes, frozenset(tenants), self._left_out, missed, self._links)

    async def _step(self) -> bool:
        if self._sounded < len(self._ids):
            await self._sound()
            return True
        if not self._is_cut:
            async with self._crew.db.connection() as conn:
                await find_tenants(conn, self._ground)
            self._ground.forget_objects()
            self._pieces.extend(self._cut())
            self._is_cut = True
        if self._pieces:
            await self._rehearse(self._take())
        return bool(self._pieces)

    async def _sound(self) -> None:
        """Find out what some events ask for, and whom they touch."""
        places = range(self._sounded, min(self._sounded + BATCH, len(self._ids)))
        some = [self._settled(place) for place in places]
        nodes: dict[UUID, Node] = {self._ids[place]: (EVENT, place) for place in places}
        async with self._crew.db.connection() as conn:
            asked = await read_settled(conn, self._crew, some)
            # What is left out and may change something is on the ground too: whose, is told.
            touching = {
                one: node
                for one, node in nodes.items()
                if one not in asked.failing and asked.left_out.get(one) not in UNTOUCHING
            }
            self._takes_back |= await sound(conn, self._ground, asked.commands, touching)
        self._left_out |= asked.left_out
        self._failing |= asked.failing
        self._sounded += len(some)
        self.done += len(asked.left_out) + len(asked.failing)

    # Pieces --------------------------------------------------------------------------------------

    def _settled(self, place: int) -> Settled:
        one = self._ids[place]
        return Settled(received_at_of(one), one, self._runs[place])

    def _cut(self) -> Iterator[_Piece]:
        return (piece for root in self._ground.roots() if (piece := self._piece(root)) is not None)

    def _piece(self, root: int) -> _Piece | None:
        """What stands on a piece of the ground, unless that is nothing, or too much."""
        places = self._standing_on(root)
        if len(places) > MOST_EVENTS:
            self._leave_out(places, TOO_MANY)
            return None
        return _Piece(root, len(places)) if places else None

    def _standing_on(self, root: int) -> list[int]:
        """The places of the events on a piece of the ground that are rehearsed."""
        return [
            place for place in self._ground.places(root) if self._ids[place] not in self._left_out
        ]

    def _leave_out(self, places: Sequence[int], why: str) -> None:
        self._left_out |= {self._ids[place]: why for place in places}
        self.done += len(places)

    def _take(self) -> list[_Piece]:
        """The next piece, and small ones with it."""
        taken: list[_Piece] = []
        count = 0
        while self._pieces:
            piece = self._pieces[0]
            if taken and (piece.is_alone or count + piece.size > BATCH):
                break
            taken.append(self._pieces.popleft())
            piece.places = self._standing_on(piece.root)
            count += piece.size
            if piece.is_alone:
                break
        return taken

    async def _rehearse(self, together: list[_Piece]) -> None:
        """Look at pieces in one transaction, or find that they have to wait or to be joined."""
        begun_s = _now_s()
        try:
            found = await self._try(together)
        except Outgrown as grew:
            if len(together) == 1:
                try:
                    await self._grow(together[0], grew.nodes, begun_s)
                except Exception:
                    self._pieces.extendleft(together)
                    raise
                return
        except TookTooLong:
            for piece in together:
                self._leave_out(piece.places, TOO_MANY)
            return
        except Exception as error:
            if not is_lost(error):
                self._pieces.extendleft(reversed(together))
                raise
            for piece in together:
                piece.tries += 1
            await _pause(together[0].tries)
        else:
            self._keep(together, found)
            return
        self._put_back(together, _now_s() - begun_s)

    async def _try(self, together: Sequence[_Piece]) -> Found:
        nodes = frozenset[Node]().union(*(self._ground.locked(one.root) for one in together))
        places = sorted(place for one in together for place in one.places)
        left_s = MOST_S - max(one.spent_s for one in together)
        is_last = any(one.tries == _TRIES for one in together)
        patience = Patience(left_s, _HOLDS_S if is_last else 0.0)
        return await apply_and_take_back(self._crew, list(self._batches(places)), nodes, patience)

    def _batches(self, places: Sequence[int]) -> Iterator[list[Settled]]:
        """
        In the order of receipt. Within a batch what is taken back comes last: so who takes back is
        in none with who does not, or the order would be another one.
        """
        events = [self._settled(place) for place in places]
        none = frozenset[type[Command]]()
        for _, group in groupby(events, lambda one: self._takes_back.get(one.tracking_id, none)):
            alike = list(group)
            yield from (alike[first : first + BATCH] for first in range(0, len(alike), BATCH))

    def _put_back(self, together: Sequence[_Piece], spent_s: float) -> None:
        """They come again, last and each by itself: only then is it known who was the cause."""
        for piece in together:
            piece.is_alone = True
            piece.spent_s += spent_s
            if piece.tries > _TRIES:
                self._leave_out(piece.places, BUSY)
            else:
                piece.places = ()
                self._pieces.append(piece)

    async def _grow(self, piece: _Piece, nodes: frozenset[Node], begun_s: float) -> None:
        """What it needs too may be others' ground, who are then looked at together with it."""
        async with self._crew.db.connection() as conn:
            nodes |= await owners_among(conn, nodes)
        merged = {self._ground.root(node) for node in nodes} | {piece.root}
        for root in merged & self._seen:
            self._forget(root)
        self._pieces = deque(one for one in self._pieces if one.root not in merged)
        grown = self._piece(self._ground.connect((EVENT, piece.places[0]), *nodes))
        if grown is not None:
            grown.is_alone, grown.tries = True, piece.tries
            grown.spent_s = piece.spent_s + _now_s() - begun_s
            self._pieces.appendleft(grown)

    def _keep(self, together: Sequence[_Piece], found: Found) -> None:
        """What became of each piece, by itself: it may come to be looked at again with others."""
        self._left_out |= dict.fromkeys(found.gone, BODY_EXPIRED)
        self._left_out |= dict.fromkeys(found.apart, EXTENSION)
        for piece in together:
            root, ground = piece.root, self._ground.locked(piece.root)
            for place in piece.places:
                ending = found.endings.get(self._ids[place])
                self._endings[place] = ending and self._same.setdefault(ending, ending)
            tenants = {name for kind, name in ground if kind == TENANT}
            if changes := [change for change in found.changes if change.tenant in tenants]:
                self._changes[root] = changes
            if behind := {name for name in found.behind if name in tenants}:
                self._behind[root] = behind
            for kind, key in ground:
                if kind == CUSTOMER and isinstance(key, CustomerKey) and key in found.links:
                    self._links[key] = found.links[key]
            self._seen.add(root)
            self.done += len(piece.places)

    def _forget(self, root: int) -> None:
        """What became of a piece, which is looked at again."""
        places = self._standing_on(root)
        self.done -= len(places)
        for place in places:
            self._endings[place] = None
        self._changes.pop(root, None)
        self._behind.pop(root, None)
        for kind, key in self._ground.locked(root):
            if kind == CUSTOMER and isinstance(key, CustomerKey):
                self._links.pop(key, None)
        self._seen.discard(root)


async def _pause(tries: int) -> None:
    await asyncio.sleep(_PAUSE_S * tries * random.uniform(0.5, 1.5))  # noqa: S311 - jitter


def _now_s() -> float:
    return asyncio.get_running_loop().time()
