"""What the events of a sender mean: `[[sources.NAME.mapping]]`."""

from collections.abc import Sequence
from typing import Any

from shared.domain.commands import Command, Ignore
from shared.domain.events import Arrival
from shared.providers.base import ConfigurationError

Path = tuple[str | int, ...]


class Mapping:
    """The rules of one source, read and compiled."""

    @classmethod
    def read(cls, tables: object, path: Path, tenant: str | None) -> "Mapping":
        """
        Raises:
            ConfigurationError: there are any.
        """
        del tenant
        if tables is None or tables == []:
            return cls()
        raise ConfigurationError(path, "mappings are not known here")

    def translate(self, arrival: Arrival, document: Any) -> Sequence[Command]:
        """
        What the event asks for.

        Raises:
            PayloadError: the body does not have what a rule needs.
        """
        del arrival, document
        return (Ignore("unmapped"),)
