"""
What every provider has to stand, in the words of a test class.

Each test is a method that can be called without pytest: `shared.conformance.covering` does so to
see which lines they reach.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import pytest

from shared.conformance import covering, folding, forgeries, soundness
from shared.conformance.damage import damaged
from shared.conformance.fixtures import (
    Fixture,
    FixtureError,
    compact,
    expected_identity,
    read_fixtures,
    shown_commands,
    shown_identity,
    write_expected,
)
from shared.conformance.plugin import WRITTEN
from shared.domain.commands import Command, Ignore
from shared.domain.events import Headers, Identity, is_storable
from shared.providers.base import (
    ConfigurationError,
    Configured,
    PayloadError,
    Provider,
    SignatureError,
)

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
TOLERANCE_S = 300

#: Three secrets that most schemes take: of "whsec_" and 32 bytes in base64.
SECRETS = (
    "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
    "whsec_c2Vjb25kIG9mIHRocmVlIHNlY3JldHMgZm9yIHRlc3Q=",
    "whsec_dGhpcmQgb2YgdGhyZWUgc2VjcmV0cyBmb3IgdGVzdHM=",
)

_CODES = {
    "missing_signature", "malformed_signature", "timestamp_too_old", "timestamp_in_future",
    "wrong_signature",
}  # fmt: skip
#: What a source says of itself, whatever its provider.
_SOURCES_OWN = {"provider", "secrets", "livemode", "tenant", "settings", "api_key", "api_base"}
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_SETTING = re.compile(r"[a-z][a-z0-9_]*")


class ProviderConformance:
    """
    Derive from it, and say what is tested.

    What a scheme cannot do is said too: a token proves neither the body nor the time.
    """

    #: The class, or an object of it.
    provider: ClassVar[type[Provider] | Provider]
    #: The directory of the fixture files; see `shared.conformance.fixtures`.
    fixtures: ClassVar[Path]
    #: What a source says to it.
    configured: ClassVar[Configured] = Configured()
    #: At least two that `check_secret` takes.
    secrets: ClassVar[Sequence[str]] = SECRETS
    #: Whether a signature proves the body, and the time of sending.
    signs_body: ClassVar[bool] = True
    signs_time: ClassVar[bool] = True
    #: Headers that `sign` makes and the signature does not prove.
    unsigned_headers: ClassVar[frozenset[str]] = frozenset()
    #: Bodies of handshakes → what they are answered with.
    handshakes: ClassVar[Mapping[bytes, bytes]] = {}
    #: Statuses that fixtures show and nobody knows the meaning of.
    unknown_statuses: ClassVar[frozenset[str]] = frozenset()
    #: The modules and packages of which the fixtures must reach every line; None: the provider's
    #: own. The suites of one file count together.
    covers: ClassVar[Sequence[str] | None] = None

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One test for each fixture."""
        for name in {"fixture", "delivered"} & set(metafunc.fixturenames):
            try:
                found = read_fixtures(self.fixtures)
            except FixtureError as error:
                raise pytest.UsageError(str(error)) from None
            if name == "delivered":
                # A fetch's answer comes with no request.
                found = [one for one in found if not one.is_fetched]
            metafunc.parametrize(name, found, ids=[one.name for one in found])

    @cached_property
    def subject(self) -> Provider:
        """The provider as the source has it configured."""
        made = self.provider() if isinstance(self.provider, type) else self.provider
        return made.for_source(self.configured)

    # What it reads ------------------------------------------------------------------------------

    def test_a_fixture_is_read_as_it_says(
        self, fixture: Fixture, pytestconfig: pytest.Config
    ) -> None:
        """Its identity and its commands; `--sluice-write-fixtures` writes them down instead."""
        if pytestconfig.getoption("sluice_write_fixtures"):
            if write_expected(fixture, *self._read(fixture)):
                pytestconfig.stash[WRITTEN].append(str(fixture.path))
        else:
            self.check_reading(fixture)

    def check_reading(self, fixture: Fixture) -> None:
        """See `test_a_fixture_is_read_as_it_says`."""
        identity, commands = self._read(fixture)
        again = self._read(fixture)
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
        identity, commands = self._read(fixture)
        _none(soundness.faults_of_identity(identity))
        _none(soundness.faults_of_commands(commands))
        _none(soundness.faults_of_what_is_shown(self.subject.name, commands, self.unknown_statuses))

    def test_whatever_comes_is_read_or_refused(self, fixture: Fixture) -> None:
        """Of thousands of damaged bodies, each is a sound event or a PayloadError."""
        provider, headers = self.subject, self._carried(fixture)
        held = dict(vars(provider)) if hasattr(provider, "__dict__") else {}
        for body in damaged(fixture.body):
            with _telling(body):
                self._check_damaged(provider, fixture, headers, body)
        assert held == (dict(vars(provider)) if held else {}), "reading changed the provider"

    def _check_damaged(
        self, provider: Provider, fixture: Fixture, headers: Headers, body: bytes
    ) -> None:
        try:
            arrival = fixture.arrival(provider, headers, fixture.body)
            if not fixture.is_fetched:
                identity = provider.identify(headers, body)
                _none(soundness.faults_of_identity(identity))
                arrival = fixture.arrival(provider, headers, body)
        except PayloadError:
            # Whoever repairs `identify` has the body translated under the identity it had.
            pass
        try:
            commands = provider.translate(arrival._replace(body=body))
        except PayloadError:
            pass
        else:
            _none(soundness.faults_of_commands(commands))
        _none(soundness.faults_of_reply(provider.handshake(headers, body)))
        same = provider.same_event(fixture.body, body)
        assert isinstance(same, bool)
        assert provider.same_event(body, fixture.body) is same, "same_event depends on the order"

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
            with _telling(body):
                self._check_damaged(self.subject, fixture, self._carried(fixture), body)

        check()

    def test_headers_may_be_anything(self, fixture: Fixture) -> None:
        """Without headers, or with others, an event is sound or a PayloadError."""
        provider = self.subject
        every = [(name, value) for name, value in self._carried(fixture)]
        for place, (name, _) in enumerate(every):
            for wrong in (None, "", "\0", "x" * 300, "\u00e9"):
                others = every[:place] + every[place + 1 :]
                headers = tuple(others if wrong is None else [*others, (name, wrong)])
                try:
                    arrival = fixture.arrival(provider, headers, fixture.body)
                    commands = provider.translate(arrival)
                except PayloadError:
                    continue
                _none(soundness.faults_of_identity(arrival.identity))
                _none(soundness.faults_of_commands(commands))

    # What it proves -----------------------------------------------------------------------------

    def test_the_right_secret_is_found(self, delivered: Fixture) -> None:
        """Each of several, by its index; twice the same, and whatever the clock says."""
        provider = self.subject
        for index, secret in enumerate(self.secrets):
            for now in (NOW, NOW - timedelta(days=9000), NOW + timedelta(days=9000)):
                headers = delivered.signed(provider, secret, now)
                for name, value in headers:
                    assert name == name.lower() and isinstance(value, str), f"header {name!r}"
                for _ in range(2):
                    found = provider.verify(headers, delivered.body, self.secrets, now, TOLERANCE_S)
                    assert found == index
                assert provider.verify(headers, delivered.body, [secret], now, TOLERANCE_S) == 0
        reply = provider.handshake(headers, delivered.body)
        assert reply is None, "an event is taken for a handshake, and would not be stored"

    def test_a_forgery_is_refused(self, delivered: Fixture) -> None:
        """Another secret, another body, another header: SignatureError, and nothing else."""
        provider, body = self.subject, delivered.body
        right, *others = self.secrets
        headers = delivered.signed(provider, right, NOW)
        for secrets in (others, [""], ["\0"], [*others, ""], []):
            self._refused(headers, body, secrets, f"secrets {len(secrets)}")
        if self.signs_body:
            for what, changed in forgeries.changed_bodies(body):
                self._refused(headers, changed, [right], what)
            another = provider.sign(b'{"another": "body"}', right, NOW)
            self._refused(another, body, [right], "the signature of another body")
        proven = frozenset(name for name, _ in provider.sign(body, right, NOW))
        proven -= self.unsigned_headers
        for what, changed_headers, _ in forgeries.changed_headers(
            headers, body, proven, with_digits=self.signs_time
        ):
            self._refused(changed_headers, body, [right], what)
        for what, doubled in forgeries.doubled_headers(headers, proven):
            try:
                assert provider.verify(doubled, body, [right], NOW, TOLERANCE_S) == 0, what
            except SignatureError:
                continue

    def test_the_window_has_two_sides(self, delivered: Fixture) -> None:
        """What was sent too long ago, or will be sent, is refused; the given `now` decides."""
        if not self.signs_time:
            return
        provider, body, secret = self.subject, delivered.body, self.secrets[0]
        headers = delivered.signed(provider, secret, NOW)
        for side, code in ((1, "timestamp_too_old"), (-1, "timestamp_in_future")):
            for tolerance_s in (TOLERANCE_S, 5):
                edge = NOW + side * timedelta(seconds=tolerance_s)
                assert provider.verify(headers, body, [secret], edge, tolerance_s) == 0
                beyond = edge + side * timedelta(seconds=2)
                refused = self._refused(headers, body, [secret], code, beyond, tolerance_s)
                assert refused.code == code

    def test_a_handshake_is_answered(self) -> None:
        """Each as the suite says; and whatever is sent in its place is answered or is none."""
        provider = self.subject
        for body, answer in self.handshakes.items():
            headers = provider.sign(body, self.secrets[0], NOW)
            assert provider.verify(headers, body, self.secrets, NOW, TOLERANCE_S) == 0
            reply = provider.handshake(headers, body)
            _none(soundness.faults_of_reply(reply))
            assert reply is not None, "a handshake is taken for an event"
            assert reply.body == answer
            for changed in damaged(body):
                with _telling(changed):
                    _none(soundness.faults_of_reply(provider.handshake(headers, changed)))

    # What it says of itself ---------------------------------------------------------------------

    def test_it_can_be_configured(self) -> None:
        """Its name, settings, tables and secrets are such as `sluice apply` takes."""
        provider = self.subject
        assert _NAME.fullmatch(provider.name), "name: a-z, 0-9 and -"
        assert provider.secret_hint.strip(), "secret_hint tells people what a secret looks like"
        for name, values in provider.settings.items():
            assert _SETTING.fullmatch(name), f"setting {name!r}"
            assert values and len(set(values)) == len(values), f"values of {name}"
            assert all(isinstance(value, str) and value for value in values), f"values of {name}"
        assert not provider.tables & _SOURCES_OWN, "tables that every source has"
        assert all(_SETTING.fullmatch(name) for name in provider.tables)
        assert provider.for_source(self.configured).name == provider.name

    def test_secrets_are_checked(self) -> None:
        """Those of the suite are taken, an empty one is not, and none is ever said."""
        provider = self.subject
        assert len(set(self.secrets)) == len(self.secrets) > 1, "secrets: at least two"
        for secret in self.secrets:
            provider.check_secret(secret)
        for secret in ("", " ", "x", "whsec_", "whsec_!", "whpk_AAAA", "\0", "\u00e9" * 40):
            try:
                provider.check_secret(secret)
            except ConfigurationError as error:
                assert error.path == (), "the path to a secret is the caller's"
                assert len(secret) < 5 or secret not in error.problem, "a secret is said"
            else:
                assert secret, "an empty secret is one anybody can sign with"

    def test_each_type_that_decides_has_a_fixture(self) -> None:
        """What an endpoint is to be sent asks for something."""
        provider = self.subject
        asking = {
            one.event_type
            for one in read_fixtures(self.fixtures)
            if any(not isinstance(command, Ignore) for command in self._read(one)[1])
        }
        for settings in _choices(provider.settings):
            types = provider.event_types(settings)
            assert len(set(types)) == len(types), f"{settings}: a type is named twice"
            assert all(is_storable(one) for one in types)
            missing = sorted(set(types) - asking)
            assert not missing, f"{settings}: no fixture that asks for something: {missing}"

    # What comes of it ---------------------------------------------------------------------------

    def test_order_and_multiplicity_do_not_matter(self) -> None:
        """The fixtures of one object come to the same in any order, however often they come."""
        read = [self._read(one) for one in read_fixtures(self.fixtures) for _ in range(2)]
        _none(folding.differences(self.subject.name, folding.objects_of(read)))

    def test_the_same_event_is_the_same(self) -> None:
        """A body is the same event as itself, and not as one that asks for something else."""
        provider = self.subject
        fixtures = [one for one in read_fixtures(self.fixtures) if not one.is_fetched]
        read = [self._read(one) for one in fixtures]
        for one, first in zip(fixtures, read, strict=True):
            assert provider.same_event(one.body, one.body)
            for other, second in zip(fixtures, read, strict=True):
                if first[1] != second[1] and one.body != other.body:
                    same = provider.same_event(one.body, other.body)
                    assert not same, f"{one.name} and {other.name} are said to be one event"

    def test_the_fixtures_reach_every_line(self) -> None:
        """Of the provider's own code, all is run by these tests."""
        covers = self.covers
        if covers is None:
            covers = (type(self.subject).__module__,)
        missing = covering.missing_lines(type(self), covers)
        assert not missing, "no fixture reaches: " + "; ".join(
            f"{path} {lines}" for path, lines in missing.items()
        )

    # ----------------------------------------------------------------------------------------------

    def run_all(self) -> None:
        """Every test but the one of the lines, without pytest."""
        for fixture in read_fixtures(self.fixtures):
            self.check_reading(fixture)
            self.test_what_is_read_can_be_stored(fixture)
            self.test_headers_may_be_anything(fixture)
            self.test_whatever_comes_is_read_or_refused(fixture)
            if not fixture.is_fetched:
                self.test_the_right_secret_is_found(fixture)
                self.test_a_forgery_is_refused(fixture)
                self.test_the_window_has_two_sides(fixture)
        self.test_anything_at_all_is_read_or_refused()
        self.test_a_handshake_is_answered()
        self.test_it_can_be_configured()
        self.test_secrets_are_checked()
        self.test_each_type_that_decides_has_a_fixture()
        self.test_order_and_multiplicity_do_not_matter()
        self.test_the_same_event_is_the_same()

    def _read(self, fixture: Fixture) -> tuple[Identity, Sequence[Command]]:
        provider = self.subject
        arrival = fixture.arrival(provider, self._carried(fixture), fixture.body)
        return arrival.identity, tuple(provider.translate(arrival))

    def _carried(self, fixture: Fixture) -> Headers:
        return fixture.carried(self.subject, self.secrets[0], NOW)

    def _refused(
        self,
        headers: Headers,
        body: bytes,
        secrets: Sequence[str],
        what: str,
        now: datetime = NOW,
        tolerance_s: int = TOLERANCE_S,
    ) -> SignatureError:
        try:
            self.subject.verify(headers, body, secrets, now, tolerance_s)
        except SignatureError as error:
            assert error.code in _CODES, f"{error.code!r} is no code of SignatureError"
            return error
        except Exception as error:
            raise AssertionError(f"{what}: {type(error).__name__}, no SignatureError") from error
        raise AssertionError(f"{what}: accepted")


def _none(faults: Iterable[str]) -> None:
    found = list(faults)
    assert not found, "; ".join(found)


@contextmanager
def _telling(body: bytes) -> Iterator[None]:
    """Say which body it was."""
    try:
        yield
    except Exception as error:
        shown = body if len(body) < 3000 else body[:1000] + b" ... " + body[-1000:]
        raise AssertionError(f"{type(error).__name__}: {error}; at the body {shown!r}") from error


def _choices(settings: Mapping[str, Sequence[str]]) -> Iterator[dict[str, Any]]:
    yield {}
    for name, values in settings.items():
        yield from ({name: value} for value in values)
