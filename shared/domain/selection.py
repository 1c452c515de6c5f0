"""Which events somebody means: one vocabulary for lists, exports, replays and issues."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec

from shared.domain.events import Status
from shared.domain.outcomes import Outcome

Moment = Annotated[datetime, msgspec.Meta(tz=True)]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
Type = Annotated[str, msgspec.Meta(max_length=255)]


class SelectionError(ValueError):
    """What is asked for is not understood. `field` is the one that is not, "" for all of it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Selection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """
    Events for which all of this is so; None asks nothing.

    `status`, `outcome` and `code` are the latest run's, `code` of an unfinished one its last failed
    attempt's; one that is dead because its attempts are used up has the code of the last of them,
    too. `attempts` is how many there were at least, of all runs. `type` may end in "*", and is ""
    of what could not be read. `event` is the provider's id. `tenant`, by any of its names, and
    `customer` are whom the event was applied to, or whose the object is that it reported of or,
    where it failed or is unfinished, is about. `trace` is the trace id of one of its deliveries,
    `replay` the id of the job that had it applied again; `ids` are tracking ids. `until` itself is
    not in it.
    """

    source: Text | None = None
    type: Type | None = None
    status: Status | None = None
    outcome: Outcome | None = None
    code: Text | None = None
    tenant: Text | None = None
    customer: Text | None = None
    event: Text | None = None
    attempts: Annotated[int, msgspec.Meta(ge=1)] | None = None
    since: Moment | None = None
    until: Moment | None = None
    trace: Text | None = None
    replay: UUID | None = None
    conflicts: bool = False  # only where another body came under the event's id
    ids: Annotated[tuple[UUID, ...], msgspec.Meta(min_length=1)] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it asks nothing, and so means all events there are."""
        return self == ALL


#: What asks nothing.
ALL = Selection()


def read_selection(fields: Mapping[str, Any]) -> Selection:
    """
    A selection from JSON-ready fields, in camelCase.

    Raises:
        SelectionError: a field is unknown, or says nothing that can be understood. Never "all".
    """
    for name in fields:
        if name not in Selection.__struct_encode_fields__:
            raise SelectionError(name, f"no filter {name!r}")
    try:
        found = msgspec.convert(fields, type=Selection)
    except msgspec.ValidationError as error:
        _, _, place = str(error).partition(" - at `$.")
        raise SelectionError(place.rstrip("`"), str(error).partition(" - at ")[0]) from None
    for name in found.__struct_fields__:
        value = getattr(found, name)
        if isinstance(value, str) and not _is_text(value):
            raise SelectionError(name, "holds what no text does")
    if found.type == "*":
        raise SelectionError("type", "asks nothing, and so means all types")
    if found.since is not None and found.until is not None and found.since >= found.until:
        raise SelectionError("until", "must be after `since`")
    return found


def _is_text(value: str) -> bool:
    """Whether the database can be asked for it."""
    try:
        return b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False
