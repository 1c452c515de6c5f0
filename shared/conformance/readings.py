"""Whether a provider reads what it is sent, and refuses what it cannot read."""

from typing import Any

import pytest

from shared.conformance import folding, soundness
from shared.conformance.damage import damaged
from shared.conformance.fixtures import (
    Fixture,
    compact,
    expected_identity,
    read_fixtures,
    shown_commands,
    shown_identity,
    write_expected,
)
from shared.conformance.plugin import WRITTEN
from shared.conformance.subject import Subject, none, telling
from shared.domain.events import Arrival, Headers
from shared.providers.base import PayloadError, Provider

#: Comparing takes as long as reading, and there is less to find.
_EVERY = 10


class ReadingProofs(Subject):
    """What is read of fixtures, of damaged ones, and of all of them together."""

    def test_a_fixture_is_read_as_it_says(
        self, fixture: Fixture, pytestconfig: pytest.Config
    ) -> None:
        """Its identity and its commands; `--sluice-write-fixtures` writes them down instead."""
        if pytestconfig.getoption("sluice_write_fixtures"):
            if write_expected(fixture, *self.read(fixture)):
                pytestconfig.stash[WRITTEN].append(str(fixture.path))
        else:
            self.check_reading(fixture)

    def check_reading(self, fixture: Fixture) -> None:
        """See `test_a_fixture_is_read_as_it_says`."""
        identity, commands = self.read(fixture)
        again = self.read(fixture)
        assert again == (identity, commands), "read again, it is something else"
        assert fixture.identity is not None and fixture.commands is not None, (
            f"{fixture.path} does not say what is expected; have it written, and review it:"
            " pytest --sluice-write-fixtures"
        )
        assert identity.event_type == fixture.event_type
        assert shown_identity(identity) == expected_identity(fixture.identity, identity)
        assert shown_commands(commands) == fixture.commands

    def test_what_is_read_can_be_stored(self, fixture: Fixture) -> None:
        """Its texts fit an index, its times are times, and its statuses mean something."""
        identity, commands = self.read(fixture)
        none(soundness.faults_of_identity(identity))
        none(soundness.faults_of_commands(commands))
        none(soundness.faults_of_what_is_shown(self.subject.name, commands, self.unknown_statuses))

    def test_whatever_comes_is_read_or_refused(self, fixture: Fixture) -> None:
        """Of thousands of damaged bodies, each is a sound event or a PayloadError."""
        provider, headers = self.subject, self.carried(fixture)
        held = dict(vars(provider)) if hasattr(provider, "__dict__") else {}
        arrival = fixture.arrival(provider, headers, fixture.body)
        for number, body in enumerate(damaged(fixture.body)):
            with telling(body):
                _check_damaged(provider, arrival, headers, body, fixture.is_fetched)
                if number % _EVERY == 0:
                    _check_comparing(provider, fixture.body, body)
        assert held == (dict(vars(provider)) if held else {}), "reading changed the provider"

    def test_anything_at_all_is_read_or_refused(self) -> None:
        """Documents that have nothing to do with the provider, under each of its types."""
        from hypothesis import HealthCheck, given, settings
        from hypothesis import strategies as st

        leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
        documents = st.recursive(
            leaves,
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
            max_leaves=8,
        )

        @settings(
            max_examples=200, deadline=None, database=None, derandomize=True,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(st.sampled_from(read_fixtures(self.fixtures)), documents | st.binary(max_size=40))
        def check(fixture: Fixture, content: Any) -> None:
            body = content if isinstance(content, bytes) else compact(content)
            with telling(body):
                provider, headers = self.subject, self.carried(fixture)
                arrival = fixture.arrival(provider, headers, fixture.body)
                _check_damaged(provider, arrival, headers, body, fixture.is_fetched)

        check()

    def test_headers_may_be_anything(self, fixture: Fixture) -> None:
        """Without headers, or with others, an event is sound or a PayloadError."""
        provider = self.subject
        every = [(name, value) for name, value in self.carried(fixture)]
        for place, (name, _) in enumerate(every):
            for wrong in (None, "", "\0", "x" * 300, "\u00e9"):
                others = every[:place] + every[place + 1 :]
                headers = tuple(others if wrong is None else [*others, (name, wrong)])
                try:
                    arrival = fixture.arrival(provider, headers, fixture.body)
                    commands = provider.translate(arrival)
                except PayloadError:
                    continue
                none(soundness.faults_of_identity(arrival.identity))
                none(soundness.faults_of_commands(commands))

    def test_order_and_multiplicity_do_not_matter(self) -> None:
        """The fixtures of one object come to the same in any order, however often they come."""
        read = [self.read(one) for one in read_fixtures(self.fixtures) for _ in range(2)]
        none(folding.differences(self.subject.name, folding.objects_of(read)))

    def test_the_same_event_is_the_same(self) -> None:
        """A body is the same event as itself, and not as one that asks for something else."""
        provider = self.subject
        fixtures = [one for one in read_fixtures(self.fixtures) if not one.is_fetched]
        read = [self.read(one) for one in fixtures]
        for one, first in zip(fixtures, read, strict=True):
            assert provider.same_event(one.body, one.body)
            for other, second in zip(fixtures, read, strict=True):
                if first[1] != second[1] and one.body != other.body:
                    same = provider.same_event(one.body, other.body)
                    assert not same, f"{one.name} and {other.name} are said to be one event"


def _check_comparing(provider: Provider, first: bytes, second: bytes) -> None:
    same = provider.same_event(first, second)
    assert isinstance(same, bool)
    assert provider.same_event(second, first) is same, "same_event depends on the order"


def _check_damaged(
    provider: Provider, arrival: Arrival, headers: Headers, body: bytes, is_fetched: bool
) -> None:
    """`arrival` is the event's, undamaged."""
    if not is_fetched:
        try:
            identity = provider.identify(headers, body)
        except PayloadError:
            # Whoever repairs `identify` has the body translated under the identity it had.
            pass
        else:
            none(soundness.faults_of_identity(identity))
            arrival = arrival._replace(identity=identity)
    try:
        commands = provider.translate(arrival._replace(body=body))
    except PayloadError:
        pass
    else:
        none(soundness.faults_of_commands(commands))
    none(soundness.faults_of_reply(provider.handshake(headers, body)))
