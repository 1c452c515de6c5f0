"""Generated lives of mapped objects: version keys, told in any order and as often as you like."""

import json
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.domain.commands import Observe
from shared.domain.events import Arrival, Identity
from shared.domain.register import Observation, Register, fold
from shared.domain.states import digest_of
from shared.providers.sender.mapping import Mapping

MAPPING = Mapping.read(
    [
        {
            "object": {
                "kind": "subscription",
                "id": "id",
                "status": "state",
                "version": "at",
                "products": "sku",
            }
        }
    ],
    ("mapping",),
    "acme",
)

#: (version, status, product) of each event of one object; few of each, so that they meet.
_lives = st.lists(
    st.tuples(
        st.integers(1_780_000_000, 1_780_000_003),
        st.sampled_from(["active", "past_due", "ended", "paused", "never_started", "mystery"]),
        st.sampled_from(["pro", "basic"]),
    ),
    min_size=1,
    max_size=8,
)


def observation(number: int, told: tuple[int, str, str]) -> Observation:
    at, state, sku = told
    body = json.dumps({"id": "lic_1", "at": at, "state": state, "sku": sku}).encode()
    identity = Identity(f"evt_{number}", "licence.told", "lic_1")
    (command,) = MAPPING.translate(Arrival(identity, body), json.loads(body))
    assert isinstance(command, Observe)
    digest = digest_of(command.after)
    return Observation(
        identity.event_id, command.version, command.shape, None, digest, command.after
    )


@settings(max_examples=400, deadline=None)
@given(_lives, st.integers())
def test_the_newest_version_is_the_state_in_every_order(
    life: list[tuple[int, str, str]], seed: int
) -> None:
    """The largest (version, event id); ambiguous where that version is told otherwise too."""
    random = Random(seed)
    seen = [observation(number, told) for number, told in enumerate(life)]
    last = max(told[0] for told in life)
    number, (_, state, sku) = max(
        (one for one in enumerate(life) if one[1][0] == last), key=lambda one: f"evt_{one[0]}"
    )
    said = {told for told in life if told[0] == last}
    found: set[bytes] = set()
    for _ in range(4):
        random.shuffle(seen)
        register: Register = fold("hmac", "subscription", [*seen])
        assert register.newest.status == state, number
        assert register.newest.items[0].refs == (sku,)
        assert register.ambiguous == (len(said) > 1)
        assert not register.terminal
        found.add(repr(register).encode())
    assert len(found) == 1


@pytest.mark.parametrize("first", ["pending", "paid"])
def test_in_one_version_what_waits_for_its_payment_came_first(first: str) -> None:
    """Created and paid in the same second: whichever of the two has the larger id."""
    second = "paid" if first == "pending" else "pending"
    told = [(1_780_000_000, status, "pro") for status in (first, second)]
    register = fold("hmac", "order", [observation(*one) for one in enumerate(told)])
    assert (register.newest.status, register.ambiguous) == ("paid", False)
