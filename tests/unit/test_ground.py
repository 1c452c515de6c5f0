"""On which ground events meet: the same as sets that are joined, in a fraction of the memory."""

import os
import random
import tracemalloc

from shared.domain.keys import CustomerKey, ObjectKey
from workers.ground import EVENT, OBJECT, Ground
from workers.watched import CUSTOMER, RECORD, TENANT, Node

EVENTS = 40
#: Bytes for each event that has an object and a customer of its own. As a tuple, a key and a list
#: for each node it was 820.
MOST_BYTES = 500


def customer(number: int) -> CustomerKey:
    return CustomerKey(900, "", True, f"cus_{number:014d}")


def sub(number: int) -> ObjectKey:
    return ObjectKey(900, "", True, "subscription", f"sub_{number:014d}")


def test_pieces_are_what_sets_would_be() -> None:
    """`TEST_SEED=N` draws the same again."""
    seed = int(os.environ.get("TEST_SEED", random.randrange(10**6)))
    print(f"TEST_SEED={seed}")
    draw = random.Random(seed)
    others: list[Node] = [(TENANT, f"t{n}") for n in range(10)]
    others += [(CUSTOMER, customer(n)) for n in range(10)] + [(OBJECT, sub(n)) for n in range(10)]
    # The keys of a customer and of a record may be equal, and are not the same.
    others += [(RECORD, customer(n)) for n in range(3)]
    for _ in range(200):
        ground, model = Ground(EVENTS), list[set[Node]]()
        for _ in range(draw.randrange(60)):
            first: Node = (EVENT, draw.randrange(EVENTS))
            some = [first, *draw.sample(others, draw.randrange(3))]
            if draw.random() < 0.2:
                some.append((EVENT, draw.randrange(EVENTS)))
            draw.shuffle(some)
            ground.connect(*some)
            touched = [piece for piece in model if piece & {*some}]
            model = [piece for piece in model if piece not in touched]
            model.append({*some}.union(*touched))
        roots = list(ground.roots())
        assert len(roots) == len(model)
        assert {frozenset(ground.places(root)) for root in roots} == {
            frozenset(place for kind, place in piece if kind == EVENT) for piece in model
        }
        for piece in model:
            (root,) = {ground.root(node) for node in piece}
            assert root in roots
            assert ground.locked(root) == {n for n in piece if n[0] not in (EVENT, OBJECT)}
            assert sorted(ground.tenants(root)) == sorted(
                str(key) for kind, key in piece if kind == TENANT
            )
        met = {key for piece in model for kind, key in piece if kind == CUSTOMER}
        assert set(ground.keys(CUSTOMER)) == met


def test_what_objects_have_connected_stays_when_they_are_forgotten() -> None:
    ground = Ground(3)
    ground.connect((EVENT, 0), (OBJECT, sub(1)))
    ground.connect((EVENT, 2), (OBJECT, sub(1)), (TENANT, "t"))
    ground.forget_objects()
    root = ground.root((EVENT, 0))
    assert ground.places(root) == [0, 2]
    assert ground.tenants(root) == ["t"]
    assert list(ground.roots()) == [root]  # nobody has put the event 1 on it


def test_it_holds_few_bytes_for_each_event() -> None:
    number = 20_000
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        ground = Ground(number)
        for place in range(number):
            ground.connect((EVENT, place), (OBJECT, sub(place)), (CUSTOMER, customer(place)))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    print(f"{(held - before) / number:.0f} bytes an event")
    assert len(list(ground.roots())) == number
    assert held - before < MOST_BYTES * number
