"""What can be stored and compared of what a provider reads; everything else is its mistake."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, get_args

import msgspec

from shared.domain.commands import Command, Ignore, Observe
from shared.domain.events import Identity, is_storable
from shared.domain.standings import standing_of
from shared.domain.states import UNOBSERVED, ObjectState, encode_state
from shared.providers.base import Reply

#: What a datetime can still hold, and what every JSON reader holds exactly.
_LATEST_S = 253_402_300_799
_LARGEST = 2**53
_YEAR_2000_S, _YEAR_2100_S = 946_684_800, 4_102_444_800

_SHAPES = ("edge", "arrival", "point", "fetch", "hint")
_MOMENTS = (
    "ends_at", "started_at", "resumes_at", "lapses_at", "past_due_at", "period_ends_at",
)  # fmt: skip
_NUMBERS = ("amount", "refunded")
_NAMES = ("customer", "tenant", "reference", "plan", "offer", "collection")


def faults_of_identity(identity: Any) -> Iterator[str]:
    """What receipt could not store of it."""
    if not isinstance(identity, Identity):
        yield f"it is {type(identity).__name__}, and no Identity"
        return
    for name in ("event_id", "event_type", "subject"):
        if not _is_name(getattr(identity, name)):
            yield f"{name} is empty, longer than 255 bytes, or holds a NUL or half a character"
    if identity.account != "" and not _is_name(identity.account):
        yield "account is too long, or holds a NUL or half a character"
    moment = identity.occurred_at
    if moment is not None:
        yield from _faults_of_moment(moment)
    livemode: Any = identity.livemode
    if type(livemode) is not bool:
        yield "livemode is neither true nor false"


def faults_of_commands(commands: Any) -> Iterator[str]:
    """What no worker could apply of them."""
    if not isinstance(commands, Sequence) or not commands:
        yield "there are none: Ignore says nothing"
        return
    for command in commands:
        if isinstance(command, Observe):
            yield from _faults_of_observation(command)
        elif isinstance(command, Ignore):
            if not _is_name(command.code):
                yield f"Ignore({command.code!r}) has no code"
        elif isinstance(command, get_args(Command)):
            yield from _faults_of_other(command)
        else:
            yield f"{type(command).__name__} is no command"


def faults_of_what_is_shown(
    provider: str, commands: Iterable[Command], unknown: frozenset[str]
) -> Iterator[str]:
    """
    What cannot be meant where an event is in order: a status without a standing that is not among
    the `unknown`, or a version in another unit.
    """
    # Stripe's versions are seconds, everybody else's microseconds.
    unit, units = (1, "seconds") if provider == "stripe" else (1_000_000, "microseconds")
    for command in commands:
        if not isinstance(command, Observe):
            continue
        for state in filter(None, (command.before, command.after)):
            if state.status in unknown | {UNOBSERVED}:
                continue
            if standing_of(provider, command.kind, state.status) is None:
                yield f"nobody knows what the status {state.status!r} of a {command.kind} means"
        if not _YEAR_2000_S * unit <= command.version < _YEAR_2100_S * unit:
            yield f"the version {command.version} is no time in {units} since 1970"


def faults_of_reply(reply: Any) -> Iterator[str]:
    """What could not be answered."""
    if reply is None:
        return
    if not isinstance(reply, Reply):
        yield f"it is {type(reply).__name__}, and no Reply"
    elif not isinstance(reply.body, bytes) or not 200 <= reply.status < 300:
        yield "a handshake is answered with bytes and a 2xx"


def _faults_of_moment(moment: datetime) -> Iterator[str]:
    if moment.tzinfo is None:
        yield "occurred_at has no time zone"
        return
    try:
        moment.astimezone(UTC)
    except OverflowError:
        yield "occurred_at is no time in UTC: its zone takes it out of what a datetime holds"


def _faults_of_observation(command: Observe) -> Iterator[str]:
    if not _is_name(command.kind) or not _is_name(command.object_id):
        yield "kind or object_id is empty, longer than 255 bytes, or holds a NUL"
    if command.shape not in _SHAPES:
        yield f"{command.shape!r} is no shape"
    if (command.shape == "edge") != (command.before is not None):
        yield f"a state before belongs to an edge, and to no other shape: {command.shape!r}"
    if (command.shape == "fetch") != (command.number is not None):
        yield f"a number belongs to a fetch, and to no other shape: {command.shape!r}"
    for number in (command.version, command.ceiling, command.number):
        if number is not None and not _is_integer(number, 2**62):
            yield f"{number!r} is no version"
    for state in filter(None, (command.before, command.after)):
        # Of the state before only a digest is kept.
        yield from _faults_of_state(state, is_stored=state is command.after)


def _faults_of_state(state: ObjectState, *, is_stored: bool) -> Iterator[str]:
    try:
        encoded = encode_state(state)
        msgspec.json.decode(encoded, type=ObjectState)
    except (msgspec.MsgspecError, TypeError, ValueError) as error:
        yield f"the state cannot be stored: {error}"
        return
    if is_stored:
        yield from _faults_of_texts(state, encoded)
    for name in _MOMENTS:
        value = getattr(state, name)
        if value is not None and not (_is_integer(value, _LATEST_S) and value >= 0):
            yield f"{name} is no time in unix seconds: {value!r}"
    for name in _NUMBERS:
        value = getattr(state, name)
        if value is not None and not _is_integer(value, _LARGEST):
            yield f"{name} is no amount: {value!r}"
    for item in state.items:
        if not (_is_integer(item.quantity, _LARGEST) and item.quantity >= 0):
            yield f"an item's quantity is {item.quantity!r}"


def _faults_of_texts(state: ObjectState, encoded: bytes) -> Iterator[str]:
    if b"\\u0000" in encoded:
        yield "the state holds a NUL, which Postgres does not take"
    if not _is_name(state.status):
        yield "the status is empty, or too long"
    for name in _NAMES:
        value = getattr(state, name)
        if value is not None and not _is_name(value):
            yield f"{name} is empty, or longer than 255 bytes"


def _faults_of_other(command: Command) -> Iterator[str]:
    try:
        msgspec.json.encode(command)
    except (msgspec.MsgspecError, TypeError, ValueError) as error:
        yield f"{type(command).__name__} holds what JSON does not: {error}"


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and is_storable(value)


def _is_integer(value: object, bound: int) -> bool:
    return type(value) is int and -bound <= value <= bound
