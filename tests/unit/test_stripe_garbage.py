"""Whatever comes under a known type, it is read or refused: nothing else is ever raised."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given as generated
from hypothesis import settings
from hypothesis import strategies as st

from shared.domain.commands import Ignore, Observe
from shared.domain.events import FETCHED
from shared.domain.states import encode_state
from shared.providers.base import PayloadError
from shared.providers.stripe.events import BUILDERS
from shared.providers.stripe.fields import LATEST_S
from tests.support.reading import STRIPE, asked_of, content_of
from tests.support.stripe_events import event, fetched, thin_event

TYPES = sorted(BUILDERS)
NUMBERS = st.one_of(
    st.integers(), st.sampled_from([0, 1, -1, 2**31, 2**53, 2**63, 10**30]), st.floats()
)
TEXTS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["", "\0", "a\0", "x" * 300, "\ud800", "paid", "payment", "void", "acct_1"]),
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(TEXTS, st.sampled_from(["id", "data", "has_more"])), inner,
                        max_size=3),
    ),
    max_leaves=8,
)  # fmt: skip


def paths(content: Any, so_far: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something could be put instead, at any depth."""
    found = [so_far] if so_far else []
    keys: Any = ()
    if isinstance(content, dict):
        keys = content.keys()
    elif isinstance(content, list):
        keys = range(len(content))
    for key in keys:
        found += paths(content[key], (*so_far, key))
    return found


@st.composite
def damaged(draw: st.DrawFn, content: dict[str, Any]) -> dict[str, Any]:
    """The object with up to three of its values replaced or left out."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(0, 3))):
        *path, last = draw(st.sampled_from(paths(content)))
        at: Any = content
        for key in path:
            at = at[key]
        if draw(st.booleans()):
            at[last] = draw(JSON)
        elif isinstance(at, dict):
            del at[last]
        if not content:
            return content
    return content


def check(kind: str, body: bytes) -> None:
    try:
        commands = asked_of(kind, body)
    except PayloadError:
        return
    assert commands
    for command in commands:
        if isinstance(command, Ignore):
            continue
        assert isinstance(command, Observe)
        assert 0 < len(command.object_id.encode()) <= 255
        assert -LATEST_S <= command.version <= LATEST_S
        for state in filter(None, (command.before, command.after)):
            if state is command.after:
                # What a column of jsonb or a date cannot hold never comes as far.
                assert b"\\u0000" not in encode_state(state)
            for moment in (state.ends_at, state.started_at, state.resumes_at, state.lapses_at):
                assert moment is None or 0 <= moment <= LATEST_S


@settings(max_examples=600, deadline=None)
@generated(data=st.data())
def test_a_damaged_object_is_read_or_refused(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(TYPES))
    content = data.draw(damaged(content_of(kind)))
    previous = data.draw(st.none() | st.dictionaries(st.sampled_from(
        [*content, "x", ""]), JSON, max_size=3))  # fmt: skip
    check(kind, event(kind, content, previous=previous, account="acct_1"))


@settings(max_examples=200, deadline=None)
@generated(kind=st.sampled_from([*TYPES, FETCHED, "v1.x", "v2.x", "product.x"]), content=JSON)
def test_anything_at_all_is_read_or_refused(kind: str, content: Any) -> None:
    check(kind, json.dumps(content).encode())
    check(kind, event(kind, content))
    check(kind, fetched("charge", "ch_1", content))


@settings(max_examples=300, deadline=None)
@generated(data=st.data())
def test_a_damaged_envelope_is_read_or_refused(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(TYPES))
    content = content_of(kind)
    number = content.get("id", content.get("customer"))
    for name, body in (
        (kind, event(kind, content, account="acct_1")),
        ("v1.x", thin_event("v1.x", content["object"], number)),
        (FETCHED, fetched(content["object"], number, content)),
    ):
        check(name, json.dumps(data.draw(damaged(json.loads(body)))).encode())


@settings(max_examples=300, deadline=None)
@generated(data=st.data())
def test_the_identity_of_a_damaged_envelope_is_read_or_refused(data: st.DataObject) -> None:
    content = content_of(data.draw(st.sampled_from(TYPES)))
    whole = json.loads(
        data.draw(st.sampled_from([event("t", content), thin_event("v1.x", "charge", "ch_1")]))
    )
    try:
        identity = STRIPE.identify((), json.dumps(data.draw(damaged(whole))).encode())
    except PayloadError:
        return
    for text in (identity.event_id, identity.event_type, identity.subject):
        assert 0 < len(text.encode()) <= 255
        assert "\0" not in text


@pytest.mark.parametrize("kind", ["customer.subscription.updated", "v1.x", FETCHED])
def test_text_that_is_no_utf_8_is_refused(kind: str) -> None:
    for body in (
        event(kind, content_of("customer.subscription.")),
        thin_event(kind, "charge", "ch_1"),
        fetched("subscription", "sub_1", content_of("customer.subscription.")),
    ):
        for text in (b'"sub_1"', b'"ch_1"', b'"v2.core.event"'):
            check(kind, body.replace(text, b'"\xff"'))


@pytest.mark.parametrize("kind", ["customer.subscription.updated", FETCHED])
@pytest.mark.parametrize("depth", [500, 2000, 100_000])
def test_what_is_nested_without_end_is_read_or_refused(kind: str, depth: int) -> None:
    deep = b'{"a":' * depth + b"1" + b"}" * depth
    body = event(kind, content_of("customer.subscription."), previous={"metadata": "HERE"})
    check(kind, body.replace(b'"HERE"', deep))
    check(kind, body.replace(b'"metadata": {}', b'"metadata": ' + deep))
    check(kind, deep)
