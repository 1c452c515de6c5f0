"""The tree over a checkpoint's records, and the paths in it."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from shared.domain.checkpoints import (
    BLOCK,
    Statement,
    Tree,
    block_roots,
    leaf_hash,
    node_hash,
    read_statement,
    root_by_path,
    tree_root,
)


def leaves(count: int) -> list[bytes]:
    return [leaf_hash("tenant:acme", number, bytes(32)) for number in range(1, count + 1)]


def rfc_6962(nodes: list[bytes]) -> bytes:
    """As the RFC defines it: split at the largest power of two below the size."""
    if len(nodes) == 1:
        return nodes[0]
    split = 1 << (len(nodes) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + rfc_6962(nodes[:split]) + rfc_6962(nodes[split:])).digest()


@given(st.integers(1, 3 * BLOCK + 2))
def test_the_tree_is_that_of_the_rfc(count: int) -> None:
    nodes = leaves(count)
    assert tree_root(nodes) == rfc_6962(nodes) == Tree(nodes).root
    assert tree_root(block_roots(nodes)) == tree_root(nodes)


@given(st.integers(1, 700), st.data())
def test_a_path_leads_to_the_root_and_no_other_does(count: int, data: st.DataObject) -> None:
    nodes = leaves(count)
    tree = Tree(nodes)
    index = data.draw(st.integers(0, count - 1))
    path = tree.path(index)
    assert root_by_path(nodes[index], index, count, path) == tree.root
    assert root_by_path(node_hash(b"", b""), index, count, path) != tree.root
    assert root_by_path(nodes[index], index, count, [*path, bytes(32)]) is None
    assert root_by_path(nodes[index], count, count, path) is None
    if path:
        at = data.draw(st.integers(0, len(path) - 1))
        bent = [*path[:at], bytes(32), *path[at + 1 :]]
        assert root_by_path(nodes[index], index, count, bent) != tree.root
        assert root_by_path(nodes[index], index, count, path[:-1]) is None
        wrong = data.draw(st.integers(0, count - 1).filter(lambda other: other != index))
        assert root_by_path(nodes[index], wrong, count, path) != tree.root


def test_no_two_records_have_the_same_leaf() -> None:
    made = {
        leaf_hash(chain, position, record)
        for chain in ("a", "a1", "b")
        for position in (1, 11)
        for record in (bytes(32), b"1" * 32)
    }
    assert len(made) == 12


def test_a_statement_is_read_as_it_was_written() -> None:
    said = Statement(1, "2026-11-21T22:00:00Z", "0" * 16, "0" * 64, 3, 9, 2, "ab", 2, 1)
    assert read_statement(said.encoded()) == said
    assert '"from":3,"to":9' in said.encoded()
