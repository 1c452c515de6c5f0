"""What makes failures one issue: the same source, type, error code and handler."""

import hashlib
from typing import NamedTuple

from shared.domain.events import BROUGHT

#: Of a digest in hexadecimal: short enough to be typed, and no two of a deployment's are the same.
_ID_LENGTH = 10


class IssueKey(NamedTuple):
    """
    What failed. `event_type` is "" where receipt could not read it; `code` is that of the latest
    run, or of its last failed attempt where the run says no more than that they are used up.
    """

    source: str
    event_type: str
    code: str

    @property
    def id(self) -> str:
        """The issue's id: the same for as long as this is what fails."""
        digest = hashlib.sha256()
        for part in self:
            encoded = part.encode()
            digest.update(len(encoded).to_bytes(4) + encoded)
        return digest.hexdigest()[:_ID_LENGTH]

    @property
    def handler(self) -> str | None:
        """
        The extension handler that failed at it; None where the type does not name one.

        Only what is brought to a handler names it. What else runs extensions is known by its
        provider's code alone, and no failure says how far it got there.
        """
        return self.event_type.removeprefix(BROUGHT) if self.is_brought else None

    @property
    def is_brought(self) -> bool:
        """Whether its events are those that are brought to a handler."""
        return self.event_type.startswith(BROUGHT)
