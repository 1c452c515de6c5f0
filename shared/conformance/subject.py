"""What a suite is told of its provider, and how it reads with it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from shared.conformance.fixtures import Fixture
from shared.domain.commands import Command
from shared.domain.events import Headers, Identity
from shared.providers.base import Configured, Provider

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
TOLERANCE_S = 300

#: Three secrets that most schemes take: of "whsec_" and 32 bytes in base64.
SECRETS = (
    "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
    "whsec_c2Vjb25kIG9mIHRocmVlIHNlY3JldHMgZm9yIHRlc3Q=",
    "whsec_dGhpcmQgb2YgdGhyZWUgc2VjcmV0cyBmb3IgdGVzdHM=",
)


class Subject:
    """The attributes that a suite sets, and what they make."""

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
    #: Types of events that the provider ignores, for handlers to listen to: an endpoint is to be
    #: sent them all the same.
    for_handlers: ClassVar[frozenset[str]] = frozenset()
    #: The modules and packages of which the fixtures must reach every line; None: the provider's
    #: own. The suites of one file count together.
    covers: ClassVar[Sequence[str] | None] = None

    @cached_property
    def subject(self) -> Provider:
        """The provider as the source has it configured."""
        made = self.provider() if isinstance(self.provider, type) else self.provider
        return made.for_source(self.configured)

    def read(self, fixture: Fixture) -> tuple[Identity, Sequence[Command]]:
        """What the fixture is, and asks for."""
        provider = self.subject
        arrival = fixture.arrival(provider, self.carried(fixture), fixture.body)
        return arrival.identity, tuple(provider.translate(arrival))

    def carried(self, fixture: Fixture) -> Headers:
        """The headers that it comes with."""
        return fixture.carried(self.subject, self.secrets[0], NOW)


def none(faults: Iterable[str]) -> None:
    """Fail with the faults, if there are any."""
    found = list(faults)
    assert not found, "; ".join(found)


@contextmanager
def telling(body: bytes) -> Iterator[None]:
    """Say which body it was."""
    try:
        yield
    except Exception as error:
        shown = body if len(body) < 3000 else body[:1000] + b" ... " + body[-1000:]
        raise AssertionError(f"{type(error).__name__}: {error}; at the body {shown!r}") from error
