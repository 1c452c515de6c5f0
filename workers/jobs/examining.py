"""What a row says of a record, or every reason why it says nothing that can be kept."""

from datetime import datetime

import msgspec

from shared.db import storable
from shared.providers.base import PayloadError
from shared.providers.sender.ingestion import Ingestion
from shared.store.imports import Reported
from workers.jobs.rows import Problem, Row

#: Of a row that may fail in more ways than anybody reads.
_LONGEST_MESSAGE = 500

_decode = msgspec.json.decode


def examine(
    row: Row, ingestion: Ingestion, received_at: datetime
) -> tuple[str, Reported] | list[Problem]:
    """The record's id and what the row reports of it, or what is wrong with the row."""
    if row.problem is not None:
        return [_plain(row.problem)]
    value = row.value
    if row.encoded is not None:
        try:
            value = _decode(row.encoded)
        except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError) as error:
            return [_plain(Problem("not_json", "", str(error)))]
    try:
        ingestion.check(value)
        if ingestion.schema is not None:
            found = ingestion.schema.violations(value)
            if found:
                return [_plain(Problem("schema", *one)) for one in found]
        record = ingestion.read(value, received_at)
    except PayloadError as error:
        return [_plain(Problem("mapping", "", str(error)))]
    assert record.raw is not None  # a row's is its own
    return record.record_id, Reported(
        record.version, record.tenant, record.normalised, record.raw, row.line
    )


def _plain(problem: Problem) -> Problem:
    """As Postgres can store it: it may quote what was sent."""
    pointer, message = (
        storable(text, _LONGEST_MESSAGE) for text in (problem.pointer, problem.message)
    )
    return Problem(problem.code, pointer, message)
