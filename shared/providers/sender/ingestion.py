"""
What third parties push to a source: `[sources.NAME.ingest]`.

A document holds rows, each a version of a record. Receipt looks at how large one may be and what it
is written in; a worker reads its rows.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from msgspec.structs import replace

from shared.domain.commands import ImportRecord
from shared.providers.base import ConfigurationError, PayloadError
from shared.providers.sender.expressions import Expression
from shared.providers.sender.records import RecordMapping
from shared.providers.sender.schemas import Schema
from shared.providers.sender.tables import Path, Table
from shared.providers.sender.values import Document, encode_json, problem_with_json

#: What a document may be written in; a source takes all of them unless it says which.
FORMATS = ("json", "ndjson", "csv", "multipart")

_KEYS = ("formats", "largest", "schema", "rows", "record")
_DEFAULT_LARGEST = "25MiB"
_LARGEST_BYTES = 5 << 30
_SIZE = re.compile(r"(\d{1,6})\s*(KiB|MiB|GiB)", re.ASCII)
_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


class Ingestion:
    """
    The table at `path`. `tenant` is the source's, for rows that are not said to name one.

    Raises:
        ConfigurationError: it says something that is not understood.
    """

    def __init__(self, table: object, path: Path, tenant: str | None) -> None:
        read = Table(table, path, _KEYS)
        self.formats = _formats(read.get("formats"), read.at("formats"))
        self.largest_bytes = _size(read.text("largest", _DEFAULT_LARGEST), read.at("largest"))
        schema = read.get("schema")
        self.schema = None if schema is None else Schema(schema, read.at("schema"))
        rows = read.text("rows")
        self._rows = None if rows is None else Expression(rows, read.at("rows"))
        record = read.get("record")
        if record is None:
            raise ConfigurationError(
                read.at("record"), 'is missing: at least { id = "…" }, where a row has its id'
            )
        self._record = RecordMapping(record, read.at("record"), tenant, is_of_rows=True)
        #: Whether rows may be of several tenants: then nothing of them all is any one's to see.
        self.names_tenants = isinstance(record, dict) and "tenant" in record
        #: Rows without a version have that of their receipt: then a repetition must name itself.
        self.needs_key = isinstance(record, dict) and "version" not in record

    def rows_of(self, document: Any) -> Sequence[Any]:
        """
        The rows of a JSON document: what `rows` finds, else its elements, else itself alone.

        Raises:
            PayloadError: `rows` finds no array.
        """
        found = document if self._rows is None else self._rows.find(document)
        if isinstance(found, list):
            return found
        if self._rows is not None:
            raise PayloadError("ingest.rows: found no array")
        return (found,)

    @property
    def has_whole_documents(self) -> bool:
        """Whether an expression says where in a document its rows are."""
        return self._rows is not None

    def check(self, row: Any) -> None:
        """
        Look at a row before anything else does.

        Raises:
            PayloadError: it cannot be kept, whatever it says.
        """
        problem = problem_with_json(row)
        if problem is not None:
            raise PayloadError(f"the row {problem}")

    def read(self, row: Any, received_at: datetime) -> ImportRecord:
        """
        The version of a record that a row is, which was checked.

        Raises:
            PayloadError: something that is needed is not there, or not what it has to be.
        """
        record = self._record.read(Document((), row, received_at), received_at)
        if record.raw is not None:
            return record
        if self._record.takes_all:
            return replace(record, raw=record.normalised)
        return replace(record, raw=encode_json(row, "the row"))


def _formats(declared: object, path: Path) -> frozenset[str]:
    if declared is None:
        return frozenset(FORMATS)
    known = ", ".join(FORMATS)
    if not isinstance(declared, list) or not declared:
        raise ConfigurationError(path, f"must list at least one of {known}")
    for index, one in enumerate(declared):
        if one not in FORMATS:
            raise ConfigurationError((*path, index), f"unknown format {one!r}; known: {known}")
    return frozenset(declared)


def _size(text: str | None, path: Path) -> int:
    found = _SIZE.fullmatch(text or "")
    if found is None:
        raise ConfigurationError(path, 'must be a size like "25MiB": KiB, MiB or GiB')
    size = int(found[1]) * _UNITS[found[2]]
    if not 1 <= size <= _LARGEST_BYTES:
        raise ConfigurationError(path, "must be more than nothing, and at most 5GiB")
    return size
