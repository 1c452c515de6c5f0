"""
From what a sender says to commands, as the source declares it: `[[sources.NAME.mapping]]`.

Each mapping that an event's type and its `when` fit reads it on its own: an object that grants, a
record, or both. Nothing is evaluated but JMESPath.
"""

from collections.abc import Sequence
from typing import Any

from shared.domain.commands import Command, Ignore, ImportRecord, Observe
from shared.domain.events import Arrival
from shared.providers.base import ConfigurationError, PayloadError
from shared.providers.sender.objects import ObjectMapping
from shared.providers.sender.records import RecordMapping
from shared.providers.sender.tables import Path, read_table
from shared.providers.sender.values import Document, Wanted

#: Codes of ignored events: no mapping has their type; all that have it say that they are not meant.
UNMAPPED = "unmapped"
NOT_MEANT = "not_meant"

_KEYS = ("types", "when", "object", "record")


class _One:
    """One element of the array, the table at `path`."""

    def __init__(self, table: object, path: Path, tenant: str | None) -> None:
        table = read_table(table, path, _KEYS)
        self._types = _types(table["types"], (*path, "types")) if "types" in table else None
        self._when = Wanted.optional(table, "when", path)
        self._targets: list[ObjectMapping | RecordMapping] = []
        if "object" in table:
            self._targets.append(ObjectMapping(table["object"], (*path, "object"), tenant))
        if "record" in table:
            self._targets.append(RecordMapping(table["record"], (*path, "record"), tenant))
        if not self._targets:
            raise ConfigurationError(path, "says neither what its `object` is nor its `record`")

    def has(self, event_type: str) -> bool:
        """Whether it is for events of the type."""
        return self._types is None or any(_fits(parts, event_type) for parts in self._types)

    def means(self, document: Document) -> bool:
        """Whether it is for this event of its types."""
        return self._when is None or self._when.is_true(document)

    def read(self, arrival: Arrival, document: Document) -> list[Observe | ImportRecord]:
        """What the event asks for."""
        return [one.read(document, arrival.identity.occurred_at) for one in self._targets]


class Mapping:
    """All mappings of one source, in their order."""

    def __init__(self, mappings: Sequence[_One]) -> None:
        self._mappings = mappings

    @classmethod
    def read(
        cls, tables: object, path: Path, tenant: str | None, *, has_times: bool = True
    ) -> "Mapping":
        """
        From the array of tables at `path`; None where there is none. `tenant` is the source's,
        `has_times` whether its events say when they happened.

        Raises:
            ConfigurationError: with the path of the key that is not understood.
        """
        if tables is None:
            return cls(())
        if not isinstance(tables, list):
            raise ConfigurationError(path, "must be an array of tables: [[sources.NAME.mapping]]")
        mappings = [_One(table, (*path, index), tenant) for index, table in enumerate(tables)]
        if not has_times:
            for index, table in enumerate(tables):
                _check_versions(table, (*path, index))
        return cls(mappings)

    def translate(self, arrival: Arrival, document: Any) -> Sequence[Command]:
        """
        What an event asks for; `document` is its body as JSON says it.

        Raises:
            PayloadError: a mapping that the event is meant for does not find what it needs.
        """
        seen = Document(arrival.headers, document, arrival.received_at)
        event_type = arrival.identity.event_type
        of_type = [one for one in self._mappings if one.has(event_type)]
        if not of_type:
            return (Ignore(UNMAPPED),)
        meant = [one for one in of_type if one.means(seen)]
        if not meant:
            return (Ignore(NOT_MEANT),)
        commands = [command for one in meant for command in one.read(arrival, seen)]
        _check_distinct(commands)
        return commands


def _check_versions(table: dict[str, Any], path: Path) -> None:
    """Or every event were dead, since nothing would say which of two states is the newer one."""
    for target in ("object", "record"):
        if target in table and "version" not in table[target]:
            raise ConfigurationError(
                (*path, target, "version"),
                "is missing: the source's `event` has no `occurred_at` to go by instead",
            )


def _check_distinct(commands: Sequence[Observe | ImportRecord]) -> None:
    """An event cannot say two things of one object at once."""
    said: set[tuple[str, str]] = set()
    for command in commands:
        if isinstance(command, Observe):
            key = (command.kind, command.object_id)
        else:
            key = ("record", command.record_id)
        if key in said:
            raise PayloadError(f"two mappings that fit this event find the same {key[0]}")
        said.add(key)


def _types(declared: object, path: Path) -> list[list[str]]:
    if not isinstance(declared, list) or not declared:
        raise ConfigurationError(path, 'must list at least one, like "licence.*"')
    for index, pattern in enumerate(declared):
        if not isinstance(pattern, str) or not pattern:
            raise ConfigurationError((*path, index), "must be text, and not empty")
    return [pattern.split("*") for pattern in declared]


def _fits(parts: Sequence[str], text: str) -> bool:
    """Whether the text is these parts in their order, with anything between them."""
    first, *between = parts
    if not between:
        return text == first
    *between, last = between
    if not text.startswith(first):
        return False
    at = len(first)
    for part in between:
        found = text.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return text.endswith(last) and len(text) - len(last) >= at
