"""Each proof of the suite notices the mistake that it is there for."""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest

from shared.conformance import ProviderConformance
from shared.conformance.damage import damaged, paths
from shared.conformance.fixtures import Fixture, FixtureError, read_fixture, read_fixtures
from shared.domain.commands import Command, Observe
from shared.domain.events import Arrival, Headers, Identity
from shared.domain.states import ObjectState
from shared.providers.base import ConfigurationError, PayloadError, Reply, SignatureError
from shared.providers.stripe import Stripe

FIXTURES = Path(__file__).parents[1] / "fixtures" / "stripe"
NAMES = ("subscription-created", "subscription-updated-more-seats")


class Suite(ProviderConformance):
    provider = Stripe
    fixtures = FIXTURES


def caught(provider: type[Stripe], test: str, matching: str, **fields: Any) -> None:
    """The test fails for this provider, and passes for Stripe."""
    for kind in (Stripe, provider):
        suite = type("Broken", (Suite,), {"provider": kind, **fields})()
        method: Callable[..., None] = getattr(suite, test)

        def run(method: Callable[..., None] = method) -> None:
            if method.__code__.co_argcount == 1:
                method()
                return
            for name in NAMES:
                method(read_fixture(FIXTURES / f"{name}.json"))

        if kind is Stripe:
            run()
        else:
            with pytest.raises(AssertionError, match=matching):
                run()


SUITE = """
from pathlib import Path
from shared.conformance import ProviderConformance
from shared.providers.stripe import Stripe

class TestIt(ProviderConformance):
    provider = Stripe
    fixtures = Path("{directory}")
    covers = ("shared.providers.stripe",)
    test_each_type_that_decides_has_a_fixture = lambda self: None
"""


# Signatures -----------------------------------------------------------------------------------


class Trusting(Stripe):
    def verify(self, headers: Headers, body: bytes, secrets: Sequence[str], now: datetime,
               tolerance_s: int) -> int:  # fmt: skip
        return 0


class FirstSecretOnly(Stripe):
    def verify(self, headers: Headers, body: bytes, secrets: Sequence[str], now: datetime,
               tolerance_s: int) -> int:  # fmt: skip
        return super().verify(headers, body, secrets[:1], now, tolerance_s)


class Bodiless(Stripe):
    """Proves the time and nothing else."""

    def verify(self, headers: Headers, body: bytes, secrets: Sequence[str], now: datetime,
               tolerance_s: int) -> int:  # fmt: skip
        return super().verify(headers, b"", secrets, now, tolerance_s)

    def sign(self, body: bytes, secret: str, now: datetime) -> Headers:
        return super().sign(b"", secret, now)


class Crashing(Stripe):
    def verify(self, headers: Headers, body: bytes, secrets: Sequence[str], now: datetime,
               tolerance_s: int) -> int:  # fmt: skip
        dict(headers)["stripe-signature"]
        return super().verify(headers, body, secrets, now, tolerance_s)


class Wordy(Stripe):
    def verify(self, headers: Headers, body: bytes, secrets: Sequence[str], now: datetime,
               tolerance_s: int) -> int:  # fmt: skip
        try:
            return super().verify(headers, body, secrets, now, tolerance_s)
        except SignatureError:
            raise SignatureError("no") from None


class OneSided(Stripe):
    def verify(self, headers: Headers, body: bytes, secrets: Sequence[str], now: datetime,
               tolerance_s: int) -> int:  # fmt: skip
        try:
            return super().verify(headers, body, secrets, now, tolerance_s)
        except SignatureError as error:
            if error.code == "timestamp_in_future":
                return 0
            raise


class Greeting(Stripe):
    def handshake(self, headers: Headers, body: bytes) -> Reply | None:
        return Reply(b"hello")


@pytest.mark.parametrize(
    ("provider", "test", "matching"),
    [
        (Trusting, "test_a_forgery_is_refused", "accepted"),
        (Bodiless, "test_a_forgery_is_refused", "flipped: accepted"),
        (Crashing, "test_a_forgery_is_refused", "missing: KeyError"),
        (Wordy, "test_a_forgery_is_refused", "no code of SignatureError"),
        (OneSided, "test_the_window_has_two_sides", "timestamp_in_future: accepted"),
        (Greeting, "test_the_right_secret_is_found", "taken for a handshake"),
    ],
)
def test_a_wrong_proof_is_noticed(provider: type[Stripe], test: str, matching: str) -> None:
    caught(provider, test, matching)


def test_a_secret_that_is_never_tried_is_noticed() -> None:
    suite = type("Broken", (Suite,), {"provider": FirstSecretOnly})()
    with pytest.raises(SignatureError):
        suite.test_the_right_secret_is_found(read_fixture(FIXTURES / f"{NAMES[0]}.json"))


# Reading --------------------------------------------------------------------------------------


class Careless(Stripe):
    """Raises what the parser raises."""

    def translate(self, arrival: Arrival) -> Sequence[Command]:
        json.loads(arrival.body)
        return super().translate(arrival)


class Eager(Stripe):
    def identify(self, headers: Headers, body: bytes) -> Identity:
        try:
            return super().identify(headers, body)
        except PayloadError:
            return Identity("", "x", "x")


class Silent(Stripe):
    def translate(self, arrival: Arrival) -> Sequence[Command]:
        return ()


class Fickle(Stripe):
    def __init__(self) -> None:
        self.seen = 0

    def translate(self, arrival: Arrival) -> Sequence[Command]:
        self.seen += 1
        after = ObjectState("active")
        return (Observe("subscription", "sub_1", self.seen, "point", None, after),)


class Elsewhere(Stripe):
    """Versions in another unit, a status of its own, and the object observed twice."""

    state = ObjectState("active")
    version = 1_795_000_000
    times = 1

    def translate(self, arrival: Arrival) -> Sequence[Command]:
        kinds = [Observe("subscription", "s", self.version, "point", None, self.state)]
        kinds.append(
            Observe("subscription", "s", self.version, "point", None, ObjectState("paused"))
        )
        return kinds[: self.times]


class Milliseconds(Elsewhere):
    version = 1_795_000_000_000


class UnknownStatus(Elsewhere):
    state = ObjectState("splendid")


class Twice(Elsewhere):
    times = 2


class Half(Elsewhere):
    state = ObjectState("active", tenant="\ud800")


class SameForAll(Stripe):
    def same_event(self, first: bytes, second: bytes) -> bool:
        return True


class Refusing(Stripe):
    def check_secret(self, secret: str) -> None:
        raise ConfigurationError((), f"is {secret}")


class Lax(Stripe):
    def check_secret(self, secret: str) -> None:
        return None


class Misnamed(Stripe):
    name = "Stripe!"


class MoreTypes(Stripe):
    def event_types(self, settings: Any) -> Sequence[str]:
        return ("product.updated",)


class MoreOften(Stripe):
    def event_types(self, settings: Any) -> Sequence[str]:
        return ("product.created",)


@pytest.mark.parametrize(
    ("provider", "test", "matching"),
    [
        (Careless, "test_whatever_comes_is_read_or_refused", "JSONDecodeError|UnicodeDecodeError"),
        (Eager, "test_whatever_comes_is_read_or_refused", "event_id is empty"),
        (Fickle, "test_whatever_comes_is_read_or_refused", "reading changed the provider"),
        (Silent, "test_what_is_read_can_be_stored", "there are none"),
        (Half, "test_what_is_read_can_be_stored", "cannot be stored"),
        (Milliseconds, "test_what_is_read_can_be_stored", "is no time in seconds"),
        (UnknownStatus, "test_what_is_read_can_be_stored", "nobody knows what"),
        (Silent, "check_reading", "assert "),
        (Fickle, "check_reading", "read again"),
        (Twice, "test_order_and_multiplicity_do_not_matter", "two things"),
        (SameForAll, "test_the_same_event_is_the_same", "said to be one event"),
        (Lax, "test_secrets_are_checked", "anybody can sign"),
        (Misnamed, "test_it_can_be_configured", "a-z, 0-9 and -"),
        (MoreTypes, "test_each_type_that_decides_has_a_fixture", "product.updated"),
    ],
)
def test_a_wrong_reading_is_noticed(provider: type[Stripe], test: str, matching: str) -> None:
    caught(provider, test, matching)


def test_a_type_that_only_handlers_listen_to_asks_for_nothing() -> None:
    """It is said to be meant so, and is shown by a fixture all the same."""

    class ForHandlers(Suite):
        provider: ClassVar[type[Stripe]] = MoreTypes
        for_handlers = frozenset({"product.updated", "product.created"})

    ForHandlers().test_each_type_that_decides_has_a_fixture()
    ForHandlers.provider = MoreOften
    with pytest.raises(AssertionError, match="listen to is named"):
        ForHandlers().test_each_type_that_decides_has_a_fixture()


def test_a_secret_that_is_refused_is_noticed() -> None:
    with pytest.raises(ConfigurationError):
        type("Broken", (Suite,), {"provider": Refusing})().test_secrets_are_checked()


# Fixtures -------------------------------------------------------------------------------------


def test_what_no_fixture_reaches_is_named(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=SUITE.format(directory=pytester.path))
    shutil.copy(FIXTURES / "customer-created.json", pytester.path)
    run = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-k", "reach_every_line")
    run.assert_outcomes(failed=1)
    run.stdout.re_match_lines([r".*no fixture reaches: .*stripe/payments\.py \d+"])


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"type": "x", "body": {}, "more": 1}',
             '{"type": "x", "body": {}, "headers": {"a": 1}}'],
)  # fmt: skip
def test_a_file_of_another_form_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "one.json").write_text(text)
    with pytest.raises(FixtureError, match=r"one\.json"):
        read_fixtures(tmp_path)


def test_a_directory_without_fixtures_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FixtureError, match="holds no fixtures"):
        read_fixtures(tmp_path)


def test_everything_is_damaged_and_nothing_twice_over() -> None:
    body = b'{"id":"evt_1","data":{"object":{"items":[{"quantity":2}]}}}'
    variants = list(damaged(body))
    assert body not in variants
    places = paths(json.loads(body))
    assert ("data", "object", "items", 0, "quantity") in places
    assert len(variants) > 30 * len(places)
    for way in (
        rb'"quantity":NaN',
        rb'"quantity":9{5000}',
        rb'"id":null,"id":1',
        rb'"id":"\\ud800"',
    ):
        assert any(re.search(way, one) for one in variants), way
    assert not any(b"data" in one for one in variants if one.startswith(b'{"id":"evt_1"}'))


def test_expected_parts_are_written_for_review(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=SUITE.format(directory=pytester.path))
    whole = json.loads((FIXTURES / "customer-created.json").read_text())
    given = {name: whole[name] for name in ("type", "body")}
    (pytester.path / "one.json").write_text(json.dumps(given))
    run = ("-p", "no:cacheprovider", "-k", "read_as_it_says")
    pytester.runpytest_subprocess(*run).stdout.fnmatch_lines(["*pytest --sluice-write-fixtures*"])
    written = pytester.runpytest_subprocess(*run, "--sluice-write-fixtures")
    written.stdout.fnmatch_lines(["*review them*", "*one.json"])
    assert json.loads((pytester.path / "one.json").read_text()) == whole
    pytester.runpytest_subprocess(*run).assert_outcomes(passed=1)


def test_a_fetchs_answer_comes_with_no_request() -> None:
    fixture: Fixture = read_fixture(FIXTURES / "fetched-subscription.json")
    assert fixture.is_fetched
    assert shown(fixture) == ("sluice.fetch/7", "subscription/sub_1")


def shown(fixture: Fixture) -> tuple[str, str]:
    identity = fixture.arrival(Stripe(), (), fixture.body).identity
    return identity.event_id, identity.subject


def test_the_plugin_costs_other_runs_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_what_is_imported():
            ours = {name for name in sys.modules if name.split(".")[0] in
                    {"shared", "workers", "gateway", "hypothesis", "coverage", "stripe"}}
            assert ours <= {"shared", "shared.conformance", "shared.conformance.plugin"}, ours
        """
    )
    run = pytester.runpytest_subprocess(
        "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-p", "no:schemathesis"
    )
    run.assert_outcomes(passed=1)
