"""
Senders that are configuration only: any signature, any body.

`schemes` proves, `identities` reads who an event is, `handshakes` answers what is no event, and
`mapping` says what an event means. All of it is read and compiled when a sender is bound to its
source; before that nothing of it is configured.
"""

from collections.abc import Sequence
from datetime import datetime

from shared.domain.commands import Command
from shared.domain.events import Arrival, Headers, Identity
from shared.providers.base import Configured, PayloadError, Provider, Reply, Suspect, header
from shared.providers.sender.documents import read_document
from shared.providers.sender.handshakes import Handshake
from shared.providers.sender.identities import Identities
from shared.providers.sender.ingestion import Ingestion
from shared.providers.sender.mapping import Mapping
from shared.providers.sender.schemes import KINDS, Scheme
from shared.providers.signing.streams import Verification

_MAPPING = ("mapping",)


class Sender(Provider):
    """See `shared.providers.base.Provider`. `name` is one of `KINDS`."""

    reads_headers = True
    files = frozenset({("ingest", "schema")})

    def __init__(self, name: str) -> None:
        self.name = name
        kind = KINDS[name]
        self.secret_hint = kind.secret_hint
        own = {"signature"} if kind.read is not None else set()
        self.tables = frozenset({"event", "handshake", "ingest", "mapping"} | own)
        self._identities = Identities()
        self._handshake: Handshake | None = None
        self.ingestion: Ingestion | None = None
        self._has_mapping = False
        self._mapping = Mapping.read(None, _MAPPING, None)
        self._use(kind.unbound)

    def _use(self, scheme: Scheme) -> None:
        self._scheme = scheme
        self.secret_headers = scheme.secret_headers
        self.signature_headers = scheme.signature_headers
        self.binds_body = scheme.binds_body

    def for_source(self, configured: Configured) -> "Sender":
        """See `Provider.for_source`."""
        kind = KINDS[self.name]
        tables = configured.settings
        bound = Sender(self.name)
        bound._identities = Identities.read(tables.get("event"))
        if kind.read is not None:
            bound._use(kind.read(tables.get("signature"), bound._identities.id_header))
        bound._handshake = Handshake.read(tables.get("handshake"))
        ingest = tables.get("ingest")
        if ingest is not None:
            bound.ingestion = Ingestion(ingest, ("ingest",), configured.tenant)
        bound._has_mapping = bool(tables.get("mapping"))
        bound._mapping = Mapping.read(
            tables.get("mapping"),
            _MAPPING,
            configured.tenant,
            has_times=bound._identities.occurred_at is not None,
        )
        return bound

    def check_secret(self, secret: str) -> None:
        """See `Provider.check_secret`."""
        super().check_secret(secret)
        self._scheme.check_secret(secret)

    def new_secret(self, random: bytes, replaced: str) -> str | None:
        """See `Provider.new_secret`."""
        return self._scheme.new_secret(random, replaced)

    def verify(
        self, headers: Headers, body: bytes, secrets: Sequence[str], now: datetime, tolerance_s: int
    ) -> int:
        """See `Provider.verify`."""
        return self._scheme.verify(headers, body, secrets, now, tolerance_s)

    def signed_at(self, headers: Headers, body: bytes) -> datetime | None:
        """See `Provider.signed_at`."""
        return self._scheme.signed_at(headers, body)

    def unknown_scheme(self, headers: Headers, secrets: Sequence[str]) -> str | None:
        """See `Provider.unknown_scheme`."""
        return self._scheme.unknown_scheme(headers, secrets)

    def respelt(self, secret: str) -> Sequence[Suspect]:
        """See `Provider.respelt`."""
        return self._scheme.respelt(secret)

    def begin(
        self, headers: Headers, secrets: Sequence[str], now: datetime, tolerance_s: int
    ) -> Verification | None:
        """See `shared.providers.sender.schemes.Scheme.begin`."""
        return self._scheme.begin(headers, secrets, now, tolerance_s)

    def message_of(self, headers: Headers) -> str | None:
        """The id that the headers give a message; None where they name none."""
        found = None
        if self._identities.id_header is not None:
            found = header(headers, self._identities.id_header)
        return found or self._scheme.message_id(headers)

    def handshake(self, headers: Headers, body: bytes) -> Reply | None:
        """See `Provider.handshake`."""
        return self._handshake.reply(headers, body) if self._handshake is not None else None

    def identify(self, headers: Headers, body: bytes) -> Identity:
        """See `Provider.identify`."""
        return self._identities.identify(headers, body, self._scheme.message_id(headers))

    def translate(self, arrival: Arrival) -> Sequence[Command]:
        """See `Provider.translate`."""
        try:
            document = read_document(arrival.headers, arrival.body)
        except PayloadError:
            if self._has_mapping:
                raise
            document = None  # nobody asks for it
        return self._mapping.translate(arrival, document)

    def sign(self, body: bytes, secret: str, now: datetime) -> Headers:
        """See `Provider.sign`."""
        signed = self._scheme.sign(body, secret, now)
        names = {name for name, _ in signed}
        named = self._identities.signed_headers(body)
        return (*signed, *(pair for pair in named if pair[0] not in names))


SENDERS = tuple(Sender(name) for name in KINDS)
