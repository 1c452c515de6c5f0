"""What a verified request is answered with that is no event: `[sources.NAME.handshake]`."""

from dataclasses import dataclass

import msgspec

from shared.domain.events import Headers
from shared.providers.base import ConfigurationError, PayloadError, Reply
from shared.providers.sender.documents import read_document
from shared.providers.sender.expressions import Expression, is_true
from shared.providers.sender.tables import Table

PATH = ("handshake",)

_NO_CONTENT = 204


@dataclass(frozen=True, slots=True)
class Handshake:
    """Which requests are one, and the answer: text, JSON, or nothing but the status."""

    when: Expression
    answer: Expression | None = None
    status: int = 200

    @classmethod
    def read(cls, table: object) -> "Handshake | None":
        """
        None where the source has none.

        Raises:
            ConfigurationError: the table says something that is not understood.
        """
        if table is None:
            return None
        read = Table(table, PATH, ("when", "answer", "status"))
        when = read.text("when")
        if when is None:
            raise ConfigurationError(read.at("when"), "is missing: without it all were handshakes")
        answer = read.text("answer")
        status = read.get("status")
        if status is None:
            status = 200 if answer is not None else _NO_CONTENT
        if not isinstance(status, int) or isinstance(status, bool) or not 200 <= status <= 299:
            raise ConfigurationError(read.at("status"), "must be a number from 200 to 299")
        if answer is not None and status in (_NO_CONTENT, 205):
            raise ConfigurationError(read.at("answer"), f"an answer of status {status} is empty")
        return cls(
            Expression(when, read.at("when")),
            Expression(answer, read.at("answer")) if answer is not None else None,
            status,
        )

    def reply(self, headers: Headers, body: bytes) -> Reply | None:
        """See `Provider.handshake`. One that lacks what is asked for is kept as an event."""
        try:
            document = read_document(headers, body)
            if not is_true(self.when.find(document)):
                return None
            if self.answer is None:
                return Reply(b"", status=self.status)
            found = self.answer.find(document)
            if found is None:
                return None
            if isinstance(found, str):
                return Reply(found.encode(), "text/plain", self.status)
            return Reply(msgspec.json.encode(found), status=self.status)
        # The last two of an answer that JSON does not hold: an expression's "&key", a surrogate.
        except (PayloadError, msgspec.MsgspecError, TypeError, UnicodeEncodeError):
            return None
