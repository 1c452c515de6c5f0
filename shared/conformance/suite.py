"""
What every provider has to stand, in the words of a test class.

Each test is a method that can be called without pytest: `shared.conformance.covering` does so to
see which lines they reach.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from shared.conformance import covering
from shared.conformance.fixtures import FixtureError, read_fixtures
from shared.conformance.proofs import SignatureProofs
from shared.conformance.readings import ReadingProofs
from shared.domain.commands import Ignore
from shared.domain.events import is_storable
from shared.providers.base import ConfigurationError

#: What a source says of itself, whatever its provider.
_SOURCES_OWN = {"provider", "secrets", "livemode", "tenant", "settings", "api_key", "api_base"}
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_SETTING = re.compile(r"[a-z][a-z0-9_]*")


class ProviderConformance(SignatureProofs, ReadingProofs):
    """
    Derive from it, and say what is tested: see `shared.conformance.subject.Subject`.

    What a scheme cannot do is said too: a token proves neither the body nor the time.
    """

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
            if one.event_type in self.for_handlers
            or any(not isinstance(command, Ignore) for command in self.read(one)[1])
        }
        for settings in _choices(provider.settings):
            types = provider.event_types(settings)
            assert len(set(types)) == len(types), f"{settings}: a type is named twice"
            assert all(is_storable(one) for one in types)
            missing = sorted(set(types) - asking)
            assert not missing, (
                f"event_types({settings}): no fixture that asks for something: {missing};"
                " what only handlers listen to is named in `for_handlers`"
            )

    def test_the_fixtures_reach_every_line(self) -> None:
        """Of the provider's own code, all is run by these tests."""
        covers = self.covers
        if covers is None:
            covers = (type(self.subject).__module__,)
        missing = covering.missing_lines(type(self), covers)
        assert not missing, "no fixture reaches: " + "; ".join(
            f"{path} {lines}" for path, lines in missing.items()
        )

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
                self.test_a_refusal_has_a_cause(fixture)
                self.test_the_window_has_two_sides(fixture)
        self.test_anything_at_all_is_read_or_refused()
        self.test_a_handshake_is_answered()
        self.test_it_can_be_configured()
        self.test_secrets_are_checked()
        self.test_each_type_that_decides_has_a_fixture()
        self.test_order_and_multiplicity_do_not_matter()
        self.test_the_same_event_is_the_same()


def _choices(settings: Mapping[str, Sequence[str]]) -> Iterator[dict[str, Any]]:
    yield {}
    for name, values in settings.items():
        yield from ({name: value} for value in values)
