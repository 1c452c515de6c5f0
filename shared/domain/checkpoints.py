"""
Checkpoints of the audit trail: what is signed, and how a record is shown to be in it.

A checkpoint covers the records of a span of transactions, all of which have ended, in the order of
(xid, id). Over their hashes stands a Merkle tree (as in RFC 6962 §2.1): one signature is of all of
them, and of one record it is shown by a path of hashes which says nothing of the others.
"""

import hashlib
from collections.abc import Sequence

import msgspec

#: Before what is signed; see `shared.signing`.
PURPOSE = "sluice.checkpoint.1"
ENDORSING = "sluice.audit-key.1"

#: How many records have a stored root of their own: a power of two, so that it is in the tree.
BLOCK = 256
DIGEST_BYTES = 32

#: In front of the first checkpoint.
NOTHING_BEFORE = "0" * 64


class Statement(msgspec.Struct, frozen=True, rename="camel"):
    """
    What a checkpoint says. `previous` is the SHA-256 of the statement before, `from` and `to` are
    transaction numbers, the latter not included; the totals are of everything up to here.
    """

    number: int
    at: str
    key: str
    previous: str
    from_xid: int = msgspec.field(name="from")
    to_xid: int = msgspec.field(name="to")
    records: int = 0
    root: str = ""
    total_records: int = 0
    total_chains: int = 0

    def encoded(self) -> str:
        """JSON, as it is signed and stored."""
        return msgspec.json.encode(self).decode()


def read_statement(text: str) -> Statement:
    """
    Raises:
        ValueError: it is none.
    """
    return msgspec.json.decode(text, type=Statement)


def statement_digest(text: str) -> str:
    """By which the next statement names this one."""
    return hashlib.sha256(text.encode()).hexdigest()


def leaf_hash(chain: str, position: int, record: bytes) -> bytes:
    """Of a record: where it stands, and its hash."""
    return hashlib.sha256(b"\0%b\0%d\0%b" % (chain.encode(), position, record)).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Of two nodes beside each other. The byte in front tells nodes from leaves."""
    return hashlib.sha256(b"\1" + left + right).digest()


def tree_root(nodes: Sequence[bytes]) -> bytes:
    """The root over at least one node; the last of an odd number stands a level higher."""
    level = list(nodes)
    while len(level) > 1:
        level = _above(level)
    return level[0]


def block_roots(leaves: Sequence[bytes]) -> list[bytes]:
    """The roots of every `BLOCK` leaves: the tree over these is the tree over those."""
    return [tree_root(leaves[first : first + BLOCK]) for first in range(0, len(leaves), BLOCK)]


class Tree:
    """All levels over some leaves, for paths of many of them."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        self._levels = [list(leaves)]
        while len(self._levels[-1]) > 1:
            self._levels.append(_above(self._levels[-1]))

    @property
    def root(self) -> bytes:
        """Over all of them."""
        return self._levels[-1][0]

    def path(self, index: int) -> list[bytes]:
        """The neighbours on the way from a leaf to the root."""
        found = []
        for level in self._levels[:-1]:
            if index ^ 1 < len(level):
                found.append(level[index ^ 1])
            index //= 2
        return found


def root_by_path(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """The root that the path leads to from this leaf; None where it is no path of such a tree."""
    rest = list(path)
    if not 0 <= index < size:
        return None
    while size > 1:
        if index ^ 1 < size:
            if not rest:
                return None
            beside = rest.pop(0)
            leaf = node_hash(beside, leaf) if index & 1 else node_hash(leaf, beside)
        index, size = index // 2, (size + 1) // 2
    return None if rest else leaf


def _above(level: Sequence[bytes]) -> list[bytes]:
    paired = [node_hash(level[at], level[at + 1]) for at in range(0, len(level) - 1, 2)]
    return [*paired, level[-1]] if len(level) % 2 else paired
