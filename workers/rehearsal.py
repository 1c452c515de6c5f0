"""
What applying settled events again would change now, found by doing it and taking it back.

    read what they ask for · find on whose ground they meet · piece by piece: lock it all,
    apply, compare what its tenants may use, roll back

Pieces have no customer, joint, tenant or record in common; many small ones share a transaction. The
code is that of a worker (`workers.applying`), only nothing is settled, and so no work is needed.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from uuid import UUID

from shared.db import is_platform_fault
from shared.domain.commands import Command
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
from workers.watched import CUSTOMER, Node, Outgrown

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
    """Events that are looked at together, by their places, and how often that was tried."""

    root: Node
    places: list[int]
    is_alone: bool = False
    tries: int = 0
    spent_s: float = 0.0


class Rehearsal:
    """A rehearsal that goes on step by step; each takes a fraction of a second, as a rule."""

    def __init__(self, crew: Crew, events: Sequence[Selected]) -> None:
        self._crew = crew
        self._left_out: dict[UUID, str] = {}
        self._events: list[Settled] = []
        for one in sorted(events):
            if one.is_unfinished or one.run is None:
                self._left_out[one.tracking_id] = UNFINISHED
            else:
                self._events.append(Settled(one.received_at, one.tracking_id, one.run))
        self._sounded = 0
        self._ground = Ground()
        #: Those that already cannot be read.
        self._failing: dict[UUID, Ending] = {}
        #: What some did and do not ask for any more.
        self._takes_back: dict[UUID, frozenset[type[Command]]] = {}
        self._pieces: deque[_Piece] = deque()
        self._is_cut = False
        self._kept: dict[Node, Found] = {}
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
        outcomes = dict(self._failing)
        changes: list[FeatureChange] = []
        tenants: set[str] = set()
        links: dict[CustomerKey, str | None] = {}
        missed: dict[str, str] = {}
        for root, found in self._kept.items():
            outcomes |= found.endings
            changes += found.changes
            links |= found.links
            missed |= dict.fromkeys(found.behind, CATALOG_BEHIND)
            tenants.update(self._ground.tenants(root))
        changes.sort(key=lambda change: (change.tenant, change.feature))
        lacking = {
            self._ground.root((EVENT, place)): why
            for place, one in enumerate(self._events)
            if (why := self._left_out.get(one.tracking_id)) is not None
        }
        missed |= {
            tenant: why for root, why in lacking.items() for tenant in self._ground.tenants(root)
        }
        return Rehearsed(outcomes, changes, frozenset(tenants), self._left_out, missed, links)

    async def _step(self) -> bool:
        if self._sounded < len(self._events):
            await self._sound()
            return True
        if not self._is_cut:
            async with self._crew.db.connection() as conn:
                await find_tenants(conn, self._ground)
            self._pieces.extend(self._cut())
            self._is_cut = True
        if self._pieces:
            await self._rehearse(self._take())
        return bool(self._pieces)

    async def _sound(self) -> None:
        """Find out what some events ask for, and whom they touch."""
        some = self._events[self._sounded : self._sounded + BATCH]
        nodes: dict[UUID, Node] = {
            one.tracking_id: (EVENT, place) for place, one in enumerate(some, self._sounded)
        }
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

    def _cut(self) -> list[_Piece]:
        return [piece for root in self._ground.roots() if (piece := self._piece(root)) is not None]

    def _piece(self, root: Node) -> _Piece | None:
        """What stands on a piece of the ground, unless that is nothing, or too much."""
        places = self._standing_on(root)
        if len(places) > MOST_EVENTS:
            self._leave_out(places, TOO_MANY)
            return None
        return _Piece(root, places) if places else None

    def _standing_on(self, root: Node) -> list[int]:
        """The places of the events on a piece of the ground that are rehearsed."""
        return [
            place
            for place in self._ground.places(root)
            if self._events[place].tracking_id not in self._left_out
        ]

    def _leave_out(self, places: Sequence[int], why: str) -> None:
        self._left_out |= {self._events[place].tracking_id: why for place in places}
        self.done += len(places)

    def _take(self) -> list[_Piece]:
        """The next piece, and small ones with it."""
        taken: list[_Piece] = []
        count = 0
        while self._pieces:
            piece = self._pieces[0]
            if taken and (piece.is_alone or count + len(piece.places) > BATCH):
                break
            taken.append(self._pieces.popleft())
            count += len(piece.places)
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
        events = [self._events[place] for place in places]
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
                self._pieces.append(piece)

    async def _grow(self, piece: _Piece, nodes: frozenset[Node], begun_s: float) -> None:
        """What it needs too may be others' ground, who are then looked at together with it."""
        async with self._crew.db.connection() as conn:
            nodes |= await owners_among(conn, nodes)
        merged = {self._ground.root(node) for node in nodes} | {piece.root}
        for root in merged & self._kept.keys():
            # Looked at already, without this one.
            self.done -= len(self._standing_on(root))
            del self._kept[root]
        self._pieces = deque(one for one in self._pieces if one.root not in merged)
        grown = self._piece(self._ground.connect(piece.root, *nodes))
        if grown is not None:
            grown.is_alone, grown.tries = True, piece.tries
            grown.spent_s = piece.spent_s + _now_s() - begun_s
            self._pieces.appendleft(grown)

    def _keep(self, together: Sequence[_Piece], found: Found) -> None:
        """What became of each piece, by itself: it may come to be looked at again with others."""
        self._left_out |= dict.fromkeys(found.gone, BODY_EXPIRED)
        self._left_out |= dict.fromkeys(found.apart, EXTENSION)
        for piece in together:
            ids = [self._events[place].tracking_id for place in piece.places]
            tenants = set(self._ground.tenants(piece.root))
            endings = {one: found.endings[one] for one in ids if one in found.endings}
            changes = [change for change in found.changes if change.tenant in tenants]
            ground = self._ground.locked(piece.root)
            links = {one: to for one, to in found.links.items() if (CUSTOMER, one) in ground}
            behind = found.behind & tenants
            self._kept[piece.root] = Found(endings, changes, links=links, behind=behind)
            self.done += len(ids)


async def _pause(tries: int) -> None:
    await asyncio.sleep(_PAUSE_S * tries * random.uniform(0.5, 1.5))  # noqa: S311 - jitter


def _now_s() -> float:
    return asyncio.get_running_loop().time()
