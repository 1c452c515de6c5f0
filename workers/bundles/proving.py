"""How a bundle's records are shown to be in what was signed, without a word of the others there."""

from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from shared.db import Conn
from shared.domain.checkpoints import Tree
from shared.store import checkpoints
from shared.store.checkpoints import Checkpoint
from workers.checkpoints import hash_of

_AT_ONCE = 1000


class Place(NamedTuple):
    """Where a record is, and the transaction that wrote it."""

    chain: str
    position: int
    xid: int


class Wanted:
    """
    Which records need a proof: of a tenant's chain, which is there as a whole, the last one that is
    signed; of other chains each.
    """

    def __init__(self, signed_to: int) -> None:
        self._signed_to = signed_to
        self._last: dict[str, Place] = {}
        self._each: list[Place] = []

    def add(self, place: Place, *, is_hidden: bool = False) -> None:
        """Call with every record, those of a chain in their order."""
        if is_hidden:
            # What follows it says nothing of what is before it.
            before = self._last.pop(place.chain, None)
            self._each += [before] if before is not None else []
            return
        if place.xid >= self._signed_to:
            return
        if place.chain.startswith("tenant:"):
            self._last[place.chain] = place
        else:
            self._each.append(place)

    def places(self) -> list[Place]:
        """All of them."""
        return [*self._last.values(), *self._each]


async def prove(
    conn: Conn, wanted: list[Place], used: dict[int, Checkpoint]
) -> AsyncIterator[dict[str, Any]]:
    """
    A line of `proofs.ndjson` for each, checkpoint by checkpoint: one of them is read at a time.
    Those that were used are put into `used`.
    """
    of: dict[int, list[Place]] = defaultdict(list)
    for first in range(0, len(wanted), _AT_ONCE):
        some = wanted[first : first + _AT_ONCE]
        covering = await checkpoints.covering(conn, [place.xid for place in some])
        for place in some:
            found = covering.get(place.xid)
            if found is not None:
                used[found.number] = found
                of[found.number].append(place)
    for number in sorted(of):
        one = used[number]
        leaves = await checkpoints.read_leaves(conn, one.from_xid, one.to_xid)
        index_of = {(leaf.chain, leaf.position): index for index, leaf in enumerate(leaves)}
        tree = Tree([hash_of(leaf) for leaf in leaves])
        for place in of[number]:
            index = index_of[place.chain, place.position]
            yield {
                "chain": place.chain,
                "position": place.position,
                "checkpoint": number,
                "index": index,
                "path": [node.hex() for node in tree.path(index)],
            }
