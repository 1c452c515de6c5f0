"""`[sources.NAME.mapping.record]`: what of an event is a version of a record."""

from datetime import datetime
from typing import Any

from shared.domain.commands import ImportRecord
from shared.domain.events import is_storable
from shared.providers.base import ConfigurationError
from shared.providers.sender.tables import Path, read_table
from shared.providers.sender.values import Document, Wanted, encode_json, version_in

_KEYS = frozenset({"id", "version", "tenant", "fields", "raw"})


class RecordMapping:
    """
    The table at `path`. `tenant` is the source's, for records that are not said to name one. Those
    of rows may have all of the row's fields.

    Raises:
        ConfigurationError: it says something that is not understood.
    """

    def __init__(
        self, table: object, path: Path, tenant: str | None, *, is_of_rows: bool = False
    ) -> None:
        table = read_table(table, path, sorted(_KEYS))
        self._source_tenant = tenant
        self._id = Wanted(table, "id", path)
        self._version = Wanted.optional(table, "version", path)
        self._tenant = Wanted.optional(table, "tenant", path)
        self._raw = Wanted.optional(table, "raw", path)
        declared = table.get("fields")
        self._fields = None
        if declared is not None or not is_of_rows:
            self._fields = _fields(declared, (*path, "fields"))

    @property
    def takes_all(self) -> bool:
        """Whether a record's fields are all of its row's."""
        return self._fields is None

    def read(self, document: Document, occurred_at: datetime | None) -> ImportRecord:
        """
        What an event says of its record. A field of which it says nothing is null.

        Raises:
            PayloadError: something that is needed is not there, or not what it has to be.
        """
        record_id = self._id.needed_text_in(document)
        tenant = self._source_tenant
        if self._tenant is not None:
            tenant = self._tenant.text_in(document)
        fields = document.body
        if self._fields is not None:
            fields = {name: wanted.json_in(document) for name, wanted in self._fields.items()}
        raw = None
        if self._raw is not None:
            raw = encode_json(self._raw.json_in(document), self._raw.name)
        return ImportRecord(
            record_id,
            version_in(self._version, document, occurred_at, self._id),
            tenant,
            encode_json(fields, "the fields together"),
            raw,
        )


def _fields(declared: Any, path: Path) -> dict[str, Wanted]:
    if not isinstance(declared, dict) or not declared:
        raise ConfigurationError(path, 'must name at least one, like { title = "data.title" }')
    for name in declared:
        if not is_storable(name):
            raise ConfigurationError((*path, name), "a name has 1 to 255 bytes, without NUL")
    return {name: Wanted(declared, name, path) for name in declared}
