"""What jobs may be asked for: which kinds there are for asking, and what each may be told."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec

from shared.domain.selection import SelectionError, read_selection

Moment = Annotated[datetime, msgspec.Meta(tz=True)]

#: Codes of jobs that cannot begin.
UNKNOWN_KIND = "unknown_kind"
INVALID_ARGUMENTS = "invalid_arguments"
UNKNOWN_SOURCE = "unknown_source"
NOT_ALLOWED = "not_allowed"

#: The asset of an import that is what was pushed.
RECEIVED = "received"

_PLACE = re.compile(r"^(?P<what>.*?)(?: - at `\$(?P<place>[^`]*)`)?$", re.DOTALL)


class Export(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """
    Write what there is into a file.

    `records`: their current version, one a line, of which `since` and `until` bound when it came
    to count. `events`: the audit trail; they bound when it happened, by our clock. `entitlements`:
    what is used now, without bounds. `until` itself is not in it.
    """

    what: Literal["records", "events", "entitlements"]
    format: Literal["ndjson", "csv"] = "ndjson"
    compression: Literal["gzip", "none"] = "none"
    since: Moment | None = None
    until: Moment | None = None


class Reprocess(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """
    Read the version of records that counts again, by today's mapping: those that were read by an
    older configuration, those that wait for a tenant, or all.
    """

    select: Literal["outdated", "waiting", "all"] = "outdated"


class ReplayPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """
    Freeze which events a selection means, and find what replaying them would change.

    `select` are the fields of a `Selection`. One that asks nothing means all events, and has to be
    said: `all`.
    """

    select: dict[str, Any] = {}
    all: bool = False


#: Runs that a replay opens in a second, unless it is told how many.
DEFAULT_RATE = 100.0


class Replay(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """
    Have the events of a plan applied again, at most `rate` of them in a second. `reason` is for the
    audit trail of each.
    """

    plan: UUID
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
    rate: Annotated[float, msgspec.Meta(ge=0.1, le=10_000)] = DEFAULT_RATE


Arguments = Export | Reprocess | ReplayPlan | Replay
#: Those that somebody may ask for; "import" comes by itself.
ARGUMENTS: Mapping[str, type[Arguments]] = {
    "export": Export,
    "reprocess": Reprocess,
    "replay-plan": ReplayPlan,
    "replay": Replay,
}


class UnfitError(Exception):
    """
    A job that cannot begin. `code` is one of those above, `pointer` a JSON pointer into
    {"kind", "arguments", "tenant", "source"}.
    """

    def __init__(self, code: str, pointer: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.pointer = pointer
        self.message = message


def read_arguments(
    kind: str, arguments: Mapping[str, Any], tenant: str | None, source: str | None
) -> Arguments:
    """
    What a job of that kind is told.

    Raises:
        UnfitError: it cannot be done. Whether tenant and source exist is not looked at.
    """
    wanted = ARGUMENTS.get(kind)
    if wanted is None:
        known = ", ".join(ARGUMENTS)
        raise UnfitError(UNKNOWN_KIND, "/kind", f"no kind that can be asked for; known: {known}")
    try:
        read = msgspec.convert(arguments, type=wanted)
    except msgspec.ValidationError as error:
        found = _PLACE.match(str(error))
        assert found is not None  # it fits any text
        place = (found["place"] or "").replace(".", "/")
        raise UnfitError(INVALID_ARGUMENTS, f"/arguments{place}", found["what"]) from None
    if isinstance(read, Export):
        _check_export(read, source)
    elif isinstance(read, Reprocess):
        if tenant is not None:
            message = "records are read again for all tenants"
            raise UnfitError(INVALID_ARGUMENTS, "/tenant", message)
    else:
        _check_replay(read, tenant, source)
    return read


def _check_replay(read: ReplayPlan | Replay, tenant: str | None, source: str | None) -> None:
    for name, value in (("tenant", tenant), ("source", source)):
        if value is not None:
            raise UnfitError(INVALID_ARGUMENTS, f"/{name}", "the selection says which events")
    if isinstance(read, Replay):
        if not read.reason.strip() or "\0" in read.reason:
            raise UnfitError(INVALID_ARGUMENTS, "/arguments/reason", "must say why")
        return
    try:
        is_empty = read_selection(read.select).is_empty
    except SelectionError as error:
        place = f"/{error.field}" if error.field else ""
        raise UnfitError(INVALID_ARGUMENTS, f"/arguments/select{place}", str(error)) from None
    if is_empty and not read.all:
        message = "asks nothing, and so means all events: say `all` where that is meant"
        raise UnfitError(INVALID_ARGUMENTS, "/arguments/select", message)
    if read.all and not is_empty:
        message = "all events are meant, or those of the selection"
        raise UnfitError(INVALID_ARGUMENTS, "/arguments/all", message)


def _check_export(read: Export, source: str | None) -> None:
    if read.what == "entitlements":
        for name, value in (("source", source), ("arguments/since", read.since),
                            ("arguments/until", read.until)):  # fmt: skip
            if value is not None:
                raise UnfitError(INVALID_ARGUMENTS, f"/{name}", "entitlements are exported whole")
    if read.since is not None and read.until is not None and read.since >= read.until:
        raise UnfitError(INVALID_ARGUMENTS, "/arguments/until", "must be after `since`")
